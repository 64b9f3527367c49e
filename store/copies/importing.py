"""Copies of runs into a live store, after a look at their seals."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tokentape.recorder import Recording, RecordingError
from tokentape.recorder.seals import SealReport, check_seals
from tokentape.store.copies.jsonl import JsonlFile
from tokentape.store.errors import NoSuchRunError, StoreError
from tokentape.store.integrity import parent_fault
from tokentape.store.live.database import DatabaseStore
from tokentape.store.sealed.reader import ParquetStore
from tokentape.store.sealed.tape import is_zip
from tokentape.store.source import Attachments


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A run of a copy: `events` and `last_seal` are what the store has of it now.

    `added_events` came with the copy: all of them, those by which the run has grown since an older
    copy of it came, or none. `added` is False where it is none.
    """

    run_id: str
    events: int
    last_seal: str | None
    added: bool
    added_events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedCopy:
    """The runs of a copy, all of whose seals hold, and what their seals have shown."""

    recordings: tuple[Recording, ...]
    reports: tuple[SealReport, ...]
    attached: Attachments

    def add_to(self, store: DatabaseStore) -> list[Imported]:
        """Add what the store does not have yet, of each run all or nothing.

        Where the store has the beginning of a run, the rest is added; where the copy is but the
        beginning of what the store has, nothing is. What is kept beside a run is added in any case.
        Raises StoreError, before anything is added, where the store has a run that differs, where
        one was erased, and RecordingError for a fork whose parent is neither here nor there.
        """
        there = [_there(each, report, store) for each, report in self._runs()]
        for recording in self.recordings:
            self._refuse_orphan(recording, store)
        imported = []
        for (recording, report), ours in zip(self._runs(), there, strict=True):
            events_there = ours.events if ours is not None else 0
            added_events = max(report.events - events_there, 0)
            if added_events:
                store.import_run(recording, self.attached, events_there=events_there)
            else:
                self._add_attachments(recording.run_id, store)
            now = report if ours is None or added_events else ours
            imported.append(
                Imported(
                    run_id=now.run_id,
                    events=now.events,
                    last_seal=now.last_seal,
                    added=added_events > 0,
                    added_events=added_events,
                )
            )
        return imported

    def _runs(self) -> Iterator[tuple[Recording, SealReport]]:
        return zip(self.recordings, self.reports, strict=True)

    def _add_attachments(self, run_id: str, store: DatabaseStore) -> None:
        for verdict in self.attached.verdicts(run_id):
            store.add_verdict(verdict)
        for floor in self.attached.floors(run_id):
            store.add_floor(floor)

    def _refuse_orphan(self, recording: Recording, store: DatabaseStore) -> None:
        """Raise RecordingError for a fork that would be without the events that it shares."""
        forked = recording.forked()
        if forked is None:
            return
        parent_run_id = forked.parent_run_id
        parents = [each for each in self.recordings if each.run_id == parent_run_id]
        with suppress(NoSuchRunError):
            parents.append(store.recording(parent_run_id))
        # The longer one will be there, and the other is its beginning.
        faults = [parent_fault(forked, each) for each in parents if each.run_id == parent_run_id]
        if "" not in faults:
            why = faults[0] if faults else f"run {parent_run_id}, is not there"
            raise RecordingError(
                f"{recording.where}: run {recording.run_id} is a fork, and its parent, {why}"
            )


def import_runs(path: Path | str, store: DatabaseStore) -> list[Imported]:
    """Add the runs of a tape, a Parquet folder or a jsonl file to a live store, as they are.

    Raises as `checked_copy` and `CheckedCopy.add_to` do.
    """
    with checked_copy(Path(path)) as copy:
        return copy.add_to(store)


@contextmanager
def checked_copy(path: Path) -> Iterator[CheckedCopy]:
    """Open a copy and derive the seals of all its runs anew.

    Raises StoreError for a file that cannot be read, RecordingError for a run that does not hold.
    """
    if path.is_dir() or is_zip(path):
        with ParquetStore(path) as sealed:
            found = [sealed.recording(summary.run_id) for summary in sealed.summaries()]
            yield _checked(found, sealed, path)
    else:
        lines = JsonlFile(path)
        yield _checked(lines.recordings(), lines, path)


def _checked(recordings: list[Recording], attached: Attachments, path: Path) -> CheckedCopy:
    reports = [check_seals(each.run_id, each.records()) for each in recordings]
    for report in reports:
        if not report.holds:
            raise RecordingError(f"{path}: run {report.run_id} does not hold: {report.fault}")
    return CheckedCopy(recordings=tuple(recordings), reports=tuple(reports), attached=attached)


def _there(recording: Recording, report: SealReport, store: DatabaseStore) -> SealReport | None:
    """What the store has of the run: its beginning, the very same or more; None for nothing.

    Raises StoreError where it has another run under that id, or has erased it.
    """
    run_id = recording.run_id
    if store.summary(run_id) is None:
        store.check_not_erased(run_id)
        return None
    there = store.recording(run_id)
    ours = check_seals(run_id, there.records())
    if ours.fault:
        raise StoreError(f"{store.where} has run {run_id} already, and damaged: {ours.fault}")
    events = min(ours.events, report.events)
    if _first(events, ours, there) != _first(events, report, recording):
        raise StoreError(
            f"{store.where} has run {run_id} already, and not the same: {ours.events} "
            f"events there, {report.events} in the copy, and neither goes on from the other"
        )
    return ours


def _first(events: int, report: SealReport, recording: Recording) -> SealReport:
    """The report of so many events, where `report` is that of all."""
    if report.events == events:
        return report
    return check_seals(recording.run_id, islice(recording.records(), events))
