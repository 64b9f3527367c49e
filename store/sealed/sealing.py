"""Sealing runs into a folder of Parquet files, also while they go on.

Files are written aside, brought to the disk and renamed, that of `runs` last: whoever reads sees a
run whole, as it was at its last seal, or not at all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recorder import Record, Recording, RecordingError
from recorder.codec import decode
from recorder.events import (
    CacheDecided,
    RunFailed,
    RunFinished,
    RunStarted,
    TurnFinished,
)
from recorder.projections import summarise
from recorder.seals import SEALED_KINDS
from store.copies.payloads import payload_of
from store.errors import NewerStoreError, StoreError
from store.sealed.locks import locked
from store.sealed.parquet import (
    ROW_GROUP_ROWS,
    TableFile,
    blobs_rows,
    events_rows,
    runs_row,
    tokens_rows,
)
from store.sealed.places import SCHEMA_VERSION, TABLES, newest_schema, part_name
from store.sealed.run_file import UNREADABLE, SealedRun, read_sealed_run
from store.source import BlobSource

FINGERPRINTS = ("weights_sha256", "tokenizer_sha256", "template_sha256", "sampler_sha256")
_ENDED_KINDS = frozenset((RunFinished.__name__, RunFailed.__name__))
_SUMMARISED_KINDS = _ENDED_KINDS | {
    each.__name__ for each in (RunStarted, CacheDecided, TurnFinished)
}
# Small row groups: one payload is found without unpacking many.
_BLOBS_BYTES = 1024**2
_FIRST = ("tokens", 0)


def export_parquet(recording: Recording, blobs: BlobSource, folder: Path | str) -> list[Path]:
    """Seal a run into a folder; return the files that were written.

    Of a run that goes on, that is what has a seal. Called again, it adds a part with what was
    sealed since; when the run has ended, one part replaces all. Other runs in the folder stay.
    Raises StoreError where the folder cannot be written, RecordingError for a damaged run and for
    one of which nothing is sealed yet.
    """
    return seal(recording, blobs, Path(folder))


def seal(
    recording: Recording, blobs: BlobSource, folder: Path, tail: Sequence[Record] = ()
) -> list[Path]:
    """`export_parquet` for one who holds the `tail`, what was recorded since the seal before."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            before = _sealed_before(folder, recording.run_id)
            if before is not None and _continues(tail, before.run):
                return _write(_Part(recording.run_id, before), tail, blobs, folder)
            if before is not None and _goes_on(recording, before.run):
                since = (each for each in recording.records() if each.seq >= before.run.events)
                return _write(_Part(recording.run_id, before), since, blobs, folder)
            return _write(_Part(recording.run_id, None), recording.records(), blobs, folder)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StoreError(f"cannot write to {folder}: {error}") from None


def _continues(tail: Sequence[Record], run: SealedRun) -> bool:
    return bool(tail) and tail[0].seq == run.events and tail[-1].kind not in _ENDED_KINDS


def _goes_on(recording: Recording, run: SealedRun) -> bool:
    """True where the recording has what is sealed, and has not ended."""
    seal_there, last_kind = None, ""
    for record in recording.records():
        last_kind = record.kind
        if record.seq == run.events - 1:
            seal_there = record.seal
    return seal_there == run.last_seal and last_kind not in _ENDED_KINDS


class _Before:
    """What is sealed of a run already."""

    def __init__(self, folder: Path, run: SealedRun) -> None:
        self.run = run
        self.next_part = len(run.parts("events"))
        self.payloads: set[str] = set()
        for name in run.parts("blobs"):
            column = pq.read_table(folder / name, columns=["sha256"], partitioning=None)["sha256"]
            self.payloads.update(column.to_pylist())


def _sealed_before(folder: Path, run_id: str) -> _Before | None:
    """None where nothing is, or where it is damaged or has ended: then all is written anew."""
    if (folder / "runs").is_dir():
        newest = newest_schema(each.name for each in (folder / "runs").iterdir())
        if newest > SCHEMA_VERSION:
            raise NewerStoreError(f"{folder} holds schema={newest}: upgrade tokentape")
    path = folder / part_name("runs", run_id)
    try:
        run = read_sealed_run(path, str(path))
        if any((folder / each.name).stat().st_size != each.bytes for each in run.files):
            return None
        goes_on = run.summary is not None and run.summary.status == "running"
        return _Before(folder, run) if goes_on else None
    except (StoreError, *UNREADABLE):
        return None


class _Part:
    """What is known of a run up to the end of the part in the making."""

    def __init__(self, run_id: str, before: _Before | None) -> None:
        self.number = 0 if before is None else before.next_part
        self.payloads: set[str] = set()
        self._kept_payloads: set[str] = set() if before is None else before.payloads
        self.run = SealedRun(run_id=run_id) if before is None else before.run
        self._began = self.run.events

    @property
    def is_empty(self) -> bool:
        return self.run.events == self._began

    def add(self, records: Sequence[Record]) -> None:
        """Fold in what ends with a seal."""
        for due, record in enumerate(records, start=self.run.events):
            if record.seq != due:
                raise RecordingError(
                    f"run {self.run.run_id} has event {record.seq} where {due} is due: "
                    "an event is missing"
                )
            if record.kind in _SUMMARISED_KINDS:
                self._summarise(record)
            elif (sha256 := payload_of(record)) and sha256 not in self._kept_payloads:
                self.payloads.add(sha256)
        last = records[-1]
        self.run = replace(self.run, events=last.seq + 1, last_seal=last.seal or "")

    def _summarise(self, record: Record) -> None:
        envelope = decode(self.run.run_id, record)
        self.run = replace(self.run, summary=summarise(self.run.summary, envelope))
        if isinstance(envelope.event, RunStarted):
            prints = {name: getattr(envelope.event, name) for name in FINGERPRINTS}
            self.run = replace(self.run, fingerprints=prints)


def _write(part: _Part, records: Iterable[Record], blobs: BlobSource, folder: Path) -> list[Path]:
    """Everything is on the disk before anything is put in place."""
    run_id = part.run.run_id
    with ExitStack() as made:
        files = {
            table: made.enter_context(TableFile(folder, part_name(table, run_id, part.number)))
            for table in TABLES
        }
        _add_rows(part, records, files)
        if part.is_empty and part.number:
            return []
        if part.is_empty or part.run.summary is None:
            raise RecordingError(f"nothing of run {run_id} is sealed yet: no turn has finished")
        _add_blobs(files["blobs"], sorted(part.payloads), blobs)
        row = made.enter_context(TableFile(folder, part_name("runs", run_id)))
        # The tokens have a file in any case, so that their table is there to be read.
        due = [each for table, each in files.items() if each.rows or (table, part.number) == _FIRST]
        sealed = tuple(each.finish(part.run.metadata()) for each in due)
        run = replace(part.run, files=(*part.run.files, *sealed))
        row.add(runs_row(part.run.summary))
        row.finish(run.runs_metadata())
        _put_in_place(folder, run, due, row, replaces=part.number == 0)
    return [*(each.path for each in due), row.path]


def _put_in_place(
    folder: Path, run: SealedRun, files: Sequence[TableFile], row: TableFile, *, replaces: bool
) -> None:
    if replaces:
        row.path.unlink(missing_ok=True)
    for each in files:
        each.put_in_place()
    kept = {folder / each.name for each in run.files} | {row.path, row.aside}
    for table in (*TABLES, "runs"):
        # What is of no use any more, and what a process left that was killed here.
        for path in (folder / part_name(table, run.run_id)).parent.glob("*"):
            if path not in kept:
                path.unlink()
    row.put_in_place()


def _add_rows(part: _Part, records: Iterable[Record], files: Mapping[str, TableFile]) -> None:
    """A row group at a time, and only what ends with a seal."""
    waiting: list[Record] = []
    for stretch in _stretches(records):
        part.add(stretch)
        waiting += stretch
        if len(waiting) >= ROW_GROUP_ROWS:
            files["events"].add(events_rows(waiting))
            files["tokens"].add(tokens_rows(waiting))
            waiting = []
    files["events"].add(events_rows(waiting))
    files["tokens"].add(tokens_rows(waiting))


def _stretches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records up to each seal; those behind the last one are left out."""
    stretch: list[Record] = []
    for record in records:
        stretch.append(record)
        if record.kind in SEALED_KINDS:
            yield stretch
            stretch = []


def _add_blobs(file: TableFile, sums: Iterable[str], blobs: BlobSource) -> None:
    payloads: dict[str, bytes] = {}
    for sha256 in sums:
        payloads[sha256] = blobs.blob(sha256)
        if sum(map(len, payloads.values())) >= _BLOBS_BYTES:
            file.add(blobs_rows(payloads))
            payloads = {}
    file.add(blobs_rows(payloads))
