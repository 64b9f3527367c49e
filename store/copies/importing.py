"""Copies of runs into a live store, after a look at their seals."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recorder import Recording, RecordingError
from recorder.seals import SealReport, check_seals
from store.copies.jsonl import JsonlFile
from store.errors import StoreError
from store.live.database import DatabaseStore
from store.sealed.reader import ParquetStore
from store.sealed.tape import is_zip
from store.source import Attachments


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A run of a copy. `added` is False where the store had it already, the very same."""

    run_id: str
    events: int
    last_seal: str | None
    added: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedCopy:
    """The runs of a copy, all of whose seals hold, and what their seals have shown."""

    recordings: tuple[Recording, ...]
    reports: tuple[SealReport, ...]
    attached: Attachments

    def add_to(self, store: DatabaseStore) -> list[Imported]:
        """Add what the store does not have yet, each run whole or not at all.

        What is kept beside a run is added to one that is there, too. Raises StoreError, before
        anything is added, where the store has a run that differs.
        """
        there = {summary.run_id for summary in store.summaries()}
        known = [_is_known(report, there, store) for report in self.reports]
        for recording, is_known in zip(self.recordings, known, strict=True):
            if not is_known:
                store.import_run(recording, self.attached)
                continue
            for verdict in self.attached.verdicts(recording.run_id):
                store.keep_verdict(verdict)
            for floor in self.attached.floors(recording.run_id):
                store.keep_floor(floor)
        return [
            Imported(
                run_id=report.run_id,
                events=report.events,
                last_seal=report.last_seal,
                added=not is_known,
            )
            for report, is_known in zip(self.reports, known, strict=True)
        ]


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


def _is_known(report: SealReport, there: set[str], store: DatabaseStore) -> bool:
    """True where the store has the very same run. Raises StoreError where it has another."""
    if report.run_id not in there:
        return False
    ours = check_seals(report.run_id, store.recording(report.run_id).records())
    if ours != report:
        raise StoreError(
            f"{store.where} has run {report.run_id} already, and not the same: {ours.events} "
            f"events there, {report.events} in the copy"
        )
    return True
