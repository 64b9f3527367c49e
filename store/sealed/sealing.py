"""Sealing of runs into a folder of Parquet files, also while they are being recorded.

Files are written under temporary names, synced and renamed, that of `runs` last: a reader sees a
run complete up to a seal, or not at all. A part that is listed there is never changed while the
run continues from it, so readers can keep it open. Attachments are added in parts of their own.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tokentape.recorder import Record, Recording, RecordingError
from tokentape.recorder.codec import decode
from tokentape.recorder.events import EVENT_CLASSES, RunStarted
from tokentape.recorder.foreign_files import pointer_file
from tokentape.recorder.leftovers import FILE_PREFIX, remove_leftovers
from tokentape.recorder.paths import expand_path
from tokentape.recorder.projections import summarise
from tokentape.recorder.seals import SEALED_KINDS, SealCheck
from tokentape.store.attachments import TABLES as ATTACHMENT_TABLES
from tokentape.store.attachments import Attachment, row_of
from tokentape.store.errors import NewerStoreError, StoreError
from tokentape.store.payloads import payload_of
from tokentape.store.sealed.expansion import measure
from tokentape.store.sealed.layout import (
    RUN_TABLES,
    SCHEMA_VERSION,
    TABLES,
    newest_schema,
    part_name,
)
from tokentape.store.sealed.locks import locked
from tokentape.store.sealed.parquet import (
    ROW_GROUP_ROWS,
    TableFile,
    attachment_rows,
    blobs_rows,
    events_rows,
    runs_row,
    tokens_rows,
)
from tokentape.store.sealed.run_file import UNREADABLE, SealedRun, fingerprints_of, read_sealed_run
from tokentape.store.source import Attachments, attachments_of, with_parents

_SUMMARISED_KINDS = frozenset(
    kind for kind, cls in EVENT_CLASSES.items() if cls.traits.changes_summary
)
# Small row groups: one payload is found without unpacking many.
_BLOBS_BYTES = 1024**2
_FIRST = ("tokens", 0)


def export_parquet(recording: Recording, attached: Attachments, folder: Path | str) -> list[Path]:
    """Write the sealed part of a run to a folder of Parquet files, and return the files written.

    `attached` supplies the payloads, verdicts and floors; usually it is the store of the run. A
    later call adds a part with the events and attachments that are new. If the folder has more of
    the run already, that stays; files of the run that are damaged or belong to a different run
    are replaced. The ancestors of a fork are included.

    Raise StoreError if the folder cannot be written to; RecordingError for a damaged run, for one
    without a seal, and for a fork that shares events without one.

    Example:
        >>> import tokentape as tt
        >>> files = tt.export_parquet(store.recording(run_id), store, tmp_path / "sealed")
        >>> sorted({file.relative_to(tmp_path / "sealed").parts[0] for file in files})
        ['blobs', 'events', 'runs', 'tokens']
        >>> tt.runs_df(tt.open_store(tmp_path / "sealed"))["turns"].tolist()
        [3]
    """
    folder = expand_path(folder)
    family = with_parents([recording])
    for each in family:
        _check_past_sealed(each)
    return [file for each in family for file in _export(each, attached, folder)]


def _check_past_sealed(recording: Recording) -> None:
    """Raise RecordingError for a fork that shares events after the parent's last seal."""
    forked = recording.forked()
    if forked is None:
        return
    parent = recording.parent(forked)
    sealed = sealed_events(parent)
    if sealed <= forked.parent_seq:
        raise RecordingError(
            f"run {recording.run_id} shares {forked.parent_seq + 1} events of run {parent.run_id}, "
            f"and {sealed} of those have a seal: finish a turn of that run or end it (`tokentape "
            "resume`), or export lines of JSON, which hold all"
        )


def sealed_events(recording: Recording) -> int:
    """Return how many events of a run have a seal at or after them."""
    ends = (each.seq + 1 for each in recording.records() if each.kind in SEALED_KINDS)
    return max(ends, default=0)


def _export(recording: Recording, attached: Attachments, folder: Path) -> list[Path]:
    with _writing(folder):
        # Those of other runs, too; `_clear` removes this run's.
        remove_leftovers(folder, folder.glob(f"*/*/*/{FILE_PREFIX}*"))
        before = _sealed_before(folder, recording.run_id)
        if before is None or not _continues(recording, before, folder):
            before = SealedRun(run_id=recording.run_id)
        since = (each for each in recording.records() if each.seq >= before.events)
        return _write(_part_of(folder, before), since, attached, folder)


class RunSealer:
    """A writer that seals one run into a folder repeatedly, from the records that are new.

    It remembers the sealed part, since reading that again would take longer with each turn.
    """

    def __init__(self, recording: Recording, attached: Attachments, folder: Path) -> None:
        self._recording, self._attached, self._folder = recording, attached, folder
        self._last: _Part | None = None

    def seal(self, tail: Sequence[Record]) -> None:
        """Add the records of `tail`. If the folder has changed, do what `export_parquet` does."""
        last, self._last = self._last, None
        if last is not None:
            with _writing(self._folder):
                if _sealed_before(self._folder, last.run.run_id) == last.run:
                    part = _Part(last.run, last.payloads_there, last.attachments_there)
                    _write(part, tail, self._attached, self._folder)
                    self._last = part
                    return
        export_parquet(self._recording, self._attached, self._folder)
        run = _sealed_before(self._folder, self._recording.run_id)
        if run is not None and run.events == tail[-1].seq + 1:
            self._last = _part_of(self._folder, run)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            yield
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StoreError(f"cannot write to {folder}: {error}") from None


def _continues(recording: Recording, run: SealedRun, folder: Path) -> bool:
    """Return whether the sealed files are intact and the recording extends them, or the reverse."""
    if any(_sum_of(folder / each.name) != each.sha256 for each in run.files):
        return False
    seals = {each.seq: each.seal for each in recording.records() if each.seal is not None}
    last = max(seals, default=-1)
    if last < run.events:
        return last >= 0 and seals[last] == _seal_at(last, run, folder)
    return seals.get(run.events - 1) == run.last_seal


def _seal_at(seq: int, run: SealedRun, folder: Path) -> str | None:
    for name in run.parts("events"):
        measure(str(folder / name))
        # Filtered here: a damaged footer would end the process; see `sealed.scan`.
        rows = pq.ParquetFile(folder / name).read(columns=["seq", "seal"])
        for found, seal in zip(rows["seq"].to_pylist(), rows["seal"].to_pylist(), strict=True):
            if found == seq:
                return str(seal)
    return None


def _sum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sealed_before(folder: Path, run_id: str) -> SealedRun | None:
    """Return the sealed part of a run in a folder; None if no run or no complete one is there."""
    if (folder / "runs").is_dir():
        newest = newest_schema(each.name for each in (folder / "runs").iterdir())
        if newest > SCHEMA_VERSION:
            raise NewerStoreError(f"{folder} holds schema={newest}: upgrade tokentape")
    path = folder / part_name("runs", run_id)
    _check_no_pointers(path)
    try:
        run = read_sealed_run(path, str(path))
        _check_no_pointers(*(folder / each.name for each in run.files))
        whole = all((folder / each.name).stat().st_size == each.bytes for each in run.files)
        return run if whole and run.run_id == run_id else None
    except PointerFileError:
        raise
    except (StoreError, *UNREADABLE):
        return None


class PointerFileError(StoreError):
    """A sealed file is a pointer to its content, as of Git LFS: it is not damaged."""


def _check_no_pointers(*paths: Path) -> None:
    for path in paths:
        fault = pointer_file(path)
        if fault:
            raise PointerFileError(f"cannot write to {path.parent}: {path.name} {fault}")


def _part_of(folder: Path, run: SealedRun) -> "_Part":
    """Return the part that follows those in the folder."""
    attachments_there = _sums_in(folder, run, *ATTACHMENT_TABLES.values())
    return _Part(run, _sums_in(folder, run, "blobs"), attachments_there)


def _sums_in(folder: Path, run: SealedRun, *tables: str) -> set[str]:
    found: set[str] = set()
    for name in (name for table in tables for name in run.parts(table)):
        measure(str(folder / name))
        rows = pq.read_table(folder / name, columns=["sha256"], partitioning=None)
        found.update(rows["sha256"].to_pylist())
    return found


class _Part:
    """The state of a run up to the end of the part that is being written."""

    def __init__(
        self, run: SealedRun, payloads_there: set[str], attachments_there: set[str]
    ) -> None:
        self.run, self.payloads_there, self.attachments_there = (
            run,
            payloads_there,
            attachments_there,
        )
        self.number = len(run.parts("events"))
        self.payloads: set[str] = set()
        self._began = run.events
        seal = run.last_seal or None
        self._seals = SealCheck(run.run_id, after_seq=run.events - 1, after_seal=seal)

    def name(self, table: str) -> str:
        """Return the name of its file of a table. Attachments are numbered independently."""
        number = self.number if table in RUN_TABLES else len(self.run.parts(table))
        return part_name(table, self.run.run_id, number)

    @property
    def is_empty(self) -> bool:
        return self.run.events == self._began

    def add(self, records: Sequence[Record]) -> None:
        """Fold in records that end with a seal. Raise RecordingError if they were altered."""
        for due, record in enumerate(records, start=self.run.events):
            if record.seq != due:
                raise RecordingError(
                    f"run {self.run.run_id} has event {record.seq} where {due} is due: "
                    "an event is missing"
                )
            self._seals.add(record)
            if record.kind in _SUMMARISED_KINDS:
                self._summarise(record)
            if (sha256 := payload_of(record)) and sha256 not in self.payloads_there:
                self.payloads.add(sha256)
        if self._seals.fault:
            raise RecordingError(f"run {self.run.run_id} is altered: {self._seals.fault}")
        last = records[-1]
        self.run = replace(self.run, events=last.seq + 1, last_seal=last.seal or "")

    def _summarise(self, record: Record) -> None:
        envelope = decode(self.run.run_id, record)
        self.run = replace(self.run, summary=summarise(self.run.summary, envelope))
        if isinstance(envelope.event, RunStarted):
            self.run = replace(self.run, fingerprints=fingerprints_of(envelope.event))


def _write(
    part: _Part, records: Iterable[Record], attached: Attachments, folder: Path
) -> list[Path]:
    """Write the files of a part and return them. All are on disk before the first is renamed."""
    run_id = part.run.run_id
    with ExitStack() as made:
        files = {table: made.enter_context(TableFile(folder, part.name(table))) for table in TABLES}
        _add_rows(part, records, files)
        if part.run.summary is None or (part.is_empty and not part.number):
            raise RecordingError(f"nothing of run {run_id} is sealed yet: no turn has finished")
        _add_blobs(files["blobs"], sorted(part.payloads), attached)
        attachments_now = _add_attachments(
            files, attachments_of(attached, run_id), part.attachments_there
        )
        if part.is_empty and not attachments_now:
            _clear(folder, part.run, ())
            return []
        row = made.enter_context(TableFile(folder, part_name("runs", run_id)))
        row.add(runs_row(part.run.summary))
        # The first part always has a file of tokens, so that bare readers find the table.
        finished = [
            each for table, each in files.items() if each.rows or (table, part.number) == _FIRST
        ]
        sealed = tuple(each.finish(part.run.metadata()) for each in finished)
        part.run = replace(part.run, files=(*part.run.files, *sealed))
        row.finish(part.run.runs_metadata())
        if part.number == 0:
            row.path.unlink(missing_ok=True)
        _clear(folder, part.run, [*finished, row])
        for each in (*finished, row):
            each.commit()
        part.payloads_there |= part.payloads
        part.attachments_there |= attachments_now
    return [*(each.path for each in finished), row.path]


def _clear(folder: Path, run: SealedRun, made: Sequence[TableFile]) -> None:
    """Remove replaced files, and what a killed process left.

    Done before new files are renamed, so that a reader of all files sees no row twice.
    """
    row = folder / part_name("runs", run.run_id)
    listed = {row, *(folder / each.name for each in run.files), *(each.tmp_path for each in made)}
    for table in (*TABLES, "runs"):
        for path in (folder / part_name(table, run.run_id)).parent.glob("*"):
            if path not in listed:
                path.unlink()


def _add_rows(part: _Part, records: Iterable[Record], files: Mapping[str, TableFile]) -> None:
    """Write the sealed records, a row group at a time."""
    waiting: list[Record] = []
    for stretch in _sealed_stretches(records):
        part.add(stretch)
        waiting += stretch
        if len(waiting) >= ROW_GROUP_ROWS:
            files["events"].add(events_rows(waiting))
            files["tokens"].add(tokens_rows(waiting))
            waiting = []
    files["events"].add(events_rows(waiting))
    files["tokens"].add(tokens_rows(waiting))


def _sealed_stretches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield the records up to each seal; those after the last seal are left out."""
    stretch: list[Record] = []
    for record in records:
        stretch.append(record)
        if record.kind in SEALED_KINDS:
            yield stretch
            stretch = []


def _add_attachments(
    files: Mapping[str, TableFile], attachments: Iterable[Attachment], there: set[str]
) -> set[str]:
    """Write new attachments, one row group each, since one may be large; return their sha256."""
    added = set()
    for each in attachments:
        sha256 = row_of(each)["sha256"]
        if sha256 not in there:
            table = ATTACHMENT_TABLES[type(each)]
            files[table].add(attachment_rows(table, [each]))
            added.add(sha256)
    return added


def _add_blobs(file: TableFile, sums: Iterable[str], attached: Attachments) -> None:
    payloads: dict[str, bytes] = {}
    for sha256 in sums:
        payloads[sha256] = attached.blob(sha256)
        if sum(map(len, payloads.values())) >= _BLOBS_BYTES:
            file.add(blobs_rows(payloads))
            payloads = {}
    file.add(blobs_rows(payloads))
