"""What the metadata of a sealed run's file of `runs` says of the run and of its other files."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokentape.recorder import Record, RecordingError
from tokentape.recorder.codec import decode
from tokentape.recorder.events import RunStarted
from tokentape.recorder.projections import RunSummary
from tokentape.recorder.seals import check_seals
from tokentape.store.errors import StoreError
from tokentape.store.sealed.layout import SCHEMA_VERSION
from tokentape.store.sealed.parquet import METADATA_PREFIX, SealedFile

FINGERPRINTS = ("weights_sha256", "tokenizer_sha256", "template_sha256", "sampler_sha256")
UNREADABLE = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRun:
    """`events` are sealed, the last of them with `last_seal`; `files` are those of other tables.

    `last_seal` is empty for a run from before there were seals, `summary` None before it started.
    It is the row of `runs` once more: ten thousand footers are read in a second, and rows are not.
    """

    run_id: str
    events: int = 0
    last_seal: str = ""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    summary: RunSummary | None = None
    files: tuple[SealedFile, ...] = ()

    def metadata(self) -> dict[str, str]:
        """What the metadata of each file of the run says; see `tokentape.store.sealed.parquet`."""
        return {
            "schema": str(SCHEMA_VERSION),
            "run_id": self.run_id,
            "fingerprints": json.dumps(self.fingerprints, sort_keys=True),
            "events": str(self.events),
            "last_seal": self.last_seal,
        }

    def runs_metadata(self) -> dict[str, str]:
        """What that of the file of `runs` says."""
        assert self.summary is not None
        row = {name: each for name, each in asdict(self.summary).items() if name != "run_id"}
        files = [asdict(each) for each in self.files]
        return self.metadata() | {"summary": json.dumps(row), "files": json.dumps(files)}

    def parts(self, table: str) -> list[str]:
        """The names of the run's files of a table, in order."""
        return [each.name for each in self.files if each.name.startswith(f"{table}/")]


def read_sealed_run(source: Any, where: str) -> SealedRun:
    """Raises StoreError where the file cannot be read or is none of ours."""
    try:
        found = pq.read_metadata(source).metadata or {}
    except UNREADABLE as error:
        raise cannot_read(where, error) from None
    try:
        texts = {
            name.decode().removeprefix(METADATA_PREFIX): value.decode()
            for name, value in found.items()
        }
        if texts["schema"] != str(SCHEMA_VERSION):
            raise ValueError(f"it says schema {texts['schema']}")
        run_id = texts["run_id"]
        return SealedRun(
            run_id=run_id,
            events=int(texts["events"]),
            last_seal=texts["last_seal"],
            fingerprints=json.loads(texts["fingerprints"]),
            summary=RunSummary(run_id=run_id, **json.loads(texts["summary"])),
            files=tuple(SealedFile(**each) for each in json.loads(texts["files"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{where} is no file of a sealed run: {error!r}") from None


def fingerprints_of(event: RunStarted) -> dict[str, str]:
    return {name: getattr(event, name) for name in FINGERPRINTS}


def metadata_faults(run: SealedRun, records: Iterable[Record]) -> list[str]:
    """What the metadata says of the run and its events do not.

    Nothing where the events themselves do not hold: then that is what is wrong.
    """
    rest = iter(records)
    first = list(next(zip(rest), ()))
    report = check_seals(run.run_id, chain(first, rest))
    if report.fault:
        return []
    try:
        started = [decode(run.run_id, each).event for each in first]
    except RecordingError:
        return []
    prints = [fingerprints_of(each) for each in started if isinstance(each, RunStarted)]
    found = {
        "events": (run.events, report.events),
        "last_seal": (run.last_seal, report.last_seal or ""),
        "fingerprints": (run.fingerprints, prints[0] if prints else {}),
    }
    return [
        f"its metadata says {name} {said}, but its events say {true}"
        for name, (said, true) in found.items()
        if said != true
    ]


def cannot_read(where: str, error: BaseException) -> StoreError:
    lines = str(error).splitlines() or [type(error).__name__]
    return StoreError(f"cannot read {where}: {lines[0]}")
