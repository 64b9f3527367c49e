"""What a sealed run's file of `runs` says: its row and, in the metadata, the files of the run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recorder.envelope import NS_PER_US
from recorder.projections import RunSummary
from store.errors import StoreError
from store.parquet import METADATA_PREFIX, SealedFile
from store.places import SCHEMA_VERSION

BROKEN = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRun:
    """`events` are sealed, the last of them with `last_seal`; `files` are those of other tables.

    `last_seal` is empty for a run from before there were seals.
    """

    run_id: str
    events: int = 0
    last_seal: str = ""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    files: tuple[SealedFile, ...] = ()

    def metadata(self) -> dict[str, str]:
        """What the metadata of each file of the run says; see `store.parquet`."""
        return {
            "schema": str(SCHEMA_VERSION),
            "run_id": self.run_id,
            "fingerprints": json.dumps(self.fingerprints, sort_keys=True),
            "events": str(self.events),
            "last_seal": self.last_seal,
        }

    def files_metadata(self) -> dict[str, str]:
        return self.metadata() | {"files": json.dumps([asdict(each) for each in self.files])}

    def parts(self, table: str) -> list[str]:
        """The names of the run's files of a table, in order."""
        return [each.name for each in self.files if each.name.startswith(f"{table}/")]


def sealed_run(metadata: Mapping[bytes, bytes] | None, where: str) -> SealedRun:
    """What the metadata of a file of `runs` says. Raises StoreError where it is none of ours."""
    texts = {name.decode(): value.decode() for name, value in (metadata or {}).items()}
    try:
        return SealedRun(
            run_id=texts[f"{METADATA_PREFIX}run_id"],
            events=int(texts[f"{METADATA_PREFIX}events"]),
            last_seal=texts[f"{METADATA_PREFIX}last_seal"],
            fingerprints=json.loads(texts[f"{METADATA_PREFIX}fingerprints"]),
            files=tuple(
                SealedFile(**each) for each in json.loads(texts[f"{METADATA_PREFIX}files"])
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{where} is no file of a sealed run: {error!r}") from None


def read_sealed_run(source: Any, where: str) -> SealedRun:
    """Raises StoreError where the file cannot be read or is none of ours."""
    try:
        metadata = pq.read_metadata(source).metadata
    except BROKEN as error:
        raise cannot_read(where, error) from None
    return sealed_run(metadata, where)


def summaries_of(table: pa.Table) -> list[RunSummary]:
    """Rows of `runs`, the oldest first."""
    columns = {name: table[name] for name in table.column_names}
    for name in ("started_at", "updated_at"):
        columns[name] = columns[name].cast(pa.int64())
    rows = pa.table(columns).to_pylist()
    for row in rows:
        row["started_at_ns"] = row.pop("started_at") * NS_PER_US
        row["updated_at_ns"] = row.pop("updated_at") * NS_PER_US
    found = (RunSummary(**row) for row in rows)
    return sorted(found, key=lambda each: (each.started_at_ns, each.run_id))


def cannot_read(where: str, error: BaseException) -> StoreError:
    lines = str(error).splitlines() or [type(error).__name__]
    return StoreError(f"cannot read {where}: {lines[0]}")
