"""The metadata of a sealed run: its summary, its last seal and the list of its files."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import pyarrow as pa

from tokentape.recorder import Record, RecordingError
from tokentape.recorder.clock import is_recordable
from tokentape.recorder.codec import decode
from tokentape.recorder.damage import DECODING_ERRORS, describe_damage, reporting_damage
from tokentape.recorder.events import RunStarted
from tokentape.recorder.field_types import check_plain_types
from tokentape.recorder.foreign_files import foreign_file
from tokentape.recorder.projections import RunSummary
from tokentape.recorder.seals import check_seals
from tokentape.store.errors import StoreError
from tokentape.store.sealed.expansion import read_footer
from tokentape.store.sealed.layout import SCHEMA_VERSION, is_part_of
from tokentape.store.sealed.parquet import METADATA_PREFIX, SealedFile

FINGERPRINTS = ("weights_sha256", "tokenizer_sha256", "template_sha256", "sampler_sha256")
UNREADABLE = (OSError, pa.ArrowException, *DECODING_ERRORS)
"""What reading a damaged Parquet file raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRun:
    """The sealed part of a run. Without arguments but the id: nothing is sealed yet."""

    run_id: str
    events: int = 0
    """How many events are sealed."""
    last_seal: str = ""
    """The seal of the last of them."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    summary: RunSummary | None = None
    """The row of `runs`, repeated in the metadata because footers are read much faster."""
    files: tuple[SealedFile, ...] = ()
    """The files of all tables but `runs`."""

    def metadata(self) -> dict[str, str]:
        """Return the metadata of each file; see `tokentape.store.sealed.parquet`."""
        return {
            "schema": str(SCHEMA_VERSION),
            "run_id": self.run_id,
            "fingerprints": json.dumps(self.fingerprints, sort_keys=True),
            "events": str(self.events),
            "last_seal": self.last_seal,
        }

    def runs_metadata(self) -> dict[str, str]:
        """Return the metadata of the file of `runs`."""
        assert self.summary is not None
        row = {name: each for name, each in asdict(self.summary).items() if name != "run_id"}
        files = [asdict(each) for each in self.files]
        return self.metadata() | {"summary": json.dumps(row), "files": json.dumps(files)}

    def parts(self, table: str) -> list[str]:
        """Return the names of the run's files of a table, in order."""
        return [each.name for each in self.files if each.name.startswith(f"{table}/")]


def read_sealed_run(source: Any, where: str) -> SealedRun:
    """Read the metadata of a file of `runs`.

    Raise StoreError if it cannot be read or is another kind of file.
    """
    with reading(where):
        found = read_footer(source).metadata or {}
    with reporting_damage(lambda why: StoreError(f"{where} is not a file of a sealed run: {why}")):
        texts = {
            name.decode().removeprefix(METADATA_PREFIX): value.decode()
            for name, value in found.items()
        }
        if texts["schema"] != str(SCHEMA_VERSION):
            raise ValueError(f"its metadata says schema {texts['schema']}")
        run_id = texts["run_id"]
        run = SealedRun(
            run_id=run_id,
            events=int(texts["events"]),
            last_seal=texts["last_seal"],
            fingerprints=json.loads(texts["fingerprints"]),
            summary=RunSummary(run_id=run_id, **json.loads(texts["summary"])),
            files=_listed(run_id, json.loads(texts["files"])),
        )
        _check_values(run)
        return run


def _check_values(run: SealedRun) -> None:
    """Raise ValueError for values that no tokentape writes into the metadata of a file."""
    assert run.summary is not None
    check_plain_types(run.summary)
    for each in run.files:
        check_plain_types(each)
    if not isinstance(run.fingerprints, dict):
        raise ValueError("its fingerprints are not a JSON object")
    if not (is_recordable(run.summary.started_at_us) and is_recordable(run.summary.updated_at_us)):
        raise ValueError("its summary has a time that is no date")


def _listed(run_id: str, entries: list[dict[str, Any]]) -> tuple[SealedFile, ...]:
    """Return the listed files. Raise ValueError for one that is not a part of the run, or twice.

    The names come from the file: none may lead out of the folder.
    """
    files = tuple(SealedFile(**each) for each in entries)
    names = {each.name for each in files}
    for name in names:
        if not isinstance(name, str) or not is_part_of(run_id, name):
            raise ValueError(f"it lists {name!r}, which is not a file of the run")
    if len(names) < len(files):
        raise ValueError("it lists a file twice")
    return files


def fingerprints_of(event: RunStarted) -> dict[str, str]:
    return {name: getattr(event, name) for name in FINGERPRINTS}


def metadata_faults(run: SealedRun, records: Iterable[Record]) -> list[str]:
    """Return where the metadata contradicts the events, a line each.

    If the seals of the events are broken, return nothing: that fault is reported elsewhere.
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


def reading(where: str) -> reporting_damage:
    """Return a context manager that raises StoreError with the name of the file that is read."""
    return reporting_damage(lambda why: _unreadable(where, why), UNREADABLE)


def cannot_read(where: str, error: BaseException) -> StoreError:
    """Return the error for a file, which says what the file is if it is none of ours."""
    return _unreadable(where, describe_damage(error))


def _unreadable(where: str, why: str) -> StoreError:
    fault = foreign_file(where)
    return StoreError(f"cannot read {where}: {f'it {fault}' if fault else why}")
