"""Sealing of runs into a folder of Parquet files, also while they are being recorded.

The file of `runs` becomes visible last: a reader sees a run complete up to a seal, or not at all. A
part that is listed there is never changed while the run continues from it, so readers can keep it
open. Attachments are added in parts of their own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import pyarrow.parquet as pq

from tokentape.recorder import Record, Recording, RecordingError
from tokentape.recorder.codec import decode
from tokentape.recorder.events import EVENT_CLASSES, RunStarted
from tokentape.recorder.projections import summarise
from tokentape.recorder.seals import SEALED_KINDS, SealCheck
from tokentape.store.attachments import TABLES as ATTACHMENT_TABLES
from tokentape.store.attachments import Attachment, row_of
from tokentape.store.errors import StoreError
from tokentape.store.objects.object_path import (
    MissingObjectError,
    ObjectPath,
    ReplacedMeanwhileError,
)
from tokentape.store.objects.urls import ObjectUrl, file_location
from tokentape.store.payloads import payload_of
from tokentape.store.sealed.expansion import measure
from tokentape.store.sealed.layout import RUN_TABLES, TABLES, part_name
from tokentape.store.sealed.object_target import ObjectTarget
from tokentape.store.sealed.parquet import (
    ROW_GROUP_ROWS,
    TableFile,
    attachment_rows,
    blobs_rows,
    events_rows,
    runs_row,
    tokens_rows,
)
from tokentape.store.sealed.run_file import SealedRun, fingerprints_of
from tokentape.store.sealed.target import FolderTarget, SealTarget
from tokentape.store.source import Attachments, attachments_of, with_parents

_SUMMARISED_KINDS = frozenset(
    kind for kind, cls in EVENT_CLASSES.items() if cls.traits.changes_summary
)
# Small row groups: one payload is found without unpacking many.
_BLOBS_BYTES = 1024**2
_FIRST = ("tokens", 0)
_ATTEMPTS = 5
"""How often a run is exported again to an object store that another process writes it to."""


@overload
def export_parquet(recording: Recording, attached: Attachments, folder: Path) -> list[Path]: ...
@overload
def export_parquet(
    recording: Recording, attached: Attachments, folder: str
) -> list[Path] | list[str]: ...
def export_parquet(
    recording: Recording, attached: Attachments, folder: Path | str
) -> list[Path] | list[str]:
    """Write the sealed part of a run to a folder of Parquet files, and return the files written.

    The folder may be the URL of one in an object store; then URLs are returned.

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
    return _export_family(recording, attached, seal_target(file_location(folder)))


def _export_family(recording: Recording, attached: Attachments, target: SealTarget) -> list[Any]:
    family = with_parents([recording])
    for each in family:
        _check_past_sealed(each)
    return [file for each in family for file in _export(each, attached, target)]


def seal_target(folder: Path | ObjectUrl) -> SealTarget:
    """Return the folder to seal runs into. Raise StoreError for a URL that cannot be opened."""
    if isinstance(folder, Path):
        return FolderTarget(folder)
    return ObjectTarget(ObjectPath.connect(folder))


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


def _export(recording: Recording, attached: Attachments, target: SealTarget) -> list[Any]:
    for _ in range(_ATTEMPTS):
        try:
            return _export_once(recording, attached, target)
        except (MissingObjectError, ReplacedMeanwhileError) as error:
            replaced = error
    raise StoreError(f"{replaced}: several processes export run {recording.run_id}; try again")


def _export_once(recording: Recording, attached: Attachments, target: SealTarget) -> list[Any]:
    with target.writing() as folder:
        target.prepare()
        before = target.sealed_before(recording.run_id)
        if before is None or not _continues(recording, before, target):
            before = SealedRun(run_id=recording.run_id)
        since = (each for each in recording.records() if each.seq >= before.events)
        return _write(_part_of(target, before), since, attached, target, folder)


class RunSealer:
    """A writer that seals one run into a folder repeatedly, from the records that are new.

    It remembers the sealed part, since reading that again would take longer with each turn.
    """

    def __init__(
        self, recording: Recording, attached: Attachments, folder: Path | ObjectUrl
    ) -> None:
        self._recording, self._attached = recording, attached
        self._target = seal_target(folder)
        self._last: _Part | None = None

    def seal(self, tail: Sequence[Record]) -> None:
        """Add the records of `tail`. If the folder has changed, do what `export_parquet` does."""
        last, self._last = self._last, None
        if last is not None:
            with suppress(ReplacedMeanwhileError), self._target.writing() as folder:
                if self._target.sealed_before(last.run.run_id) == last.run:
                    part = _Part(last.run, last.payloads_there, last.attachments_there)
                    _write(part, tail, self._attached, self._target, folder)
                    self._last = part
                    return
        _export_family(self._recording, self._attached, self._target)
        run = self._target.sealed_before(self._recording.run_id)
        if run is not None and run.events == tail[-1].seq + 1:
            self._last = _part_of(self._target, run)


def _continues(recording: Recording, run: SealedRun, target: SealTarget) -> bool:
    """Return whether the sealed files are intact and the recording extends them, or the reverse."""
    if any(target.sha256(each.name) != each.sha256 for each in run.files):
        return False
    seals = {each.seq: each.seal for each in recording.records() if each.seal is not None}
    last = max(seals, default=-1)
    if last < run.events:
        return last >= 0 and seals[last] == _seal_at(last, run, target)
    return seals.get(run.events - 1) == run.last_seal


def _seal_at(seq: int, run: SealedRun, target: SealTarget) -> str | None:
    for name in run.parts("events"):
        source = target.source(name)
        measure(source)
        # Filtered here: a damaged footer would end the process; see `sealed.scan`.
        rows = pq.ParquetFile(source).read(columns=["seq", "seal"])
        for found, seal in zip(rows["seq"].to_pylist(), rows["seal"].to_pylist(), strict=True):
            if found == seq:
                return str(seal)
    return None


def _part_of(target: SealTarget, run: SealedRun) -> "_Part":
    """Return the part that follows those in the folder."""
    attachments_there = _sums_in(target, run, *ATTACHMENT_TABLES.values())
    return _Part(run, _sums_in(target, run, "blobs"), attachments_there)


def _sums_in(target: SealTarget, run: SealedRun, *tables: str) -> set[str]:
    found: set[str] = set()
    for name in (name for table in tables for name in run.parts(table)):
        source = target.source(name)
        measure(source)
        rows = pq.ParquetFile(source).read(columns=["sha256"])
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
    part: _Part,
    records: Iterable[Record],
    attached: Attachments,
    target: SealTarget,
    folder: Path,
) -> list[Any]:
    """Write the files of a part and return them. All are finished before the first is visible."""
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
            target.clear(part.run, ())
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
        published = target.publish(part.run, finished, row, replaces=part.number == 0)
        part.payloads_there |= part.payloads
        part.attachments_there |= attachments_now
    return published


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
