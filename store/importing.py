"""Copies of runs into a live store, after a look at their seals."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recorder import Recording, RecordingError
from recorder.seals import SealReport, check_seals
from store.database import DatabaseStore
from store.errors import StoreError
from store.jsonl import JsonlFile
from store.sealed import ParquetStore
from store.source import BlobSource
from store.tape import is_zip


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A run of a copy. `added` is False where the store had it already, the very same."""

    run_id: str
    events: int
    last_seal: str | None
    added: bool


def import_runs(path: Path, open_live: Callable[[], DatabaseStore]) -> list[Imported]:
    """Add the runs of a tape, a Parquet folder or a file of JSON lines to a live store.

    They are added as they are, each of them whole or not at all, after the seals of all were found
    to hold; the store is opened only then. Raises StoreError for a file that cannot be read and for
    a run that is there already and differs, RecordingError for one whose seals do not hold.
    """
    with _opened(path) as (recordings, blobs):
        reports = [_checked(recording, path) for recording in recordings]
        with open_live() as store:
            there = {summary.run_id for summary in store.summaries()}
            known = [_is_known(report, there, store) for report in reports]
            for recording, is_known in zip(recordings, known, strict=True):
                if not is_known:
                    store.import_run(recording, blobs)
    return [
        Imported(
            run_id=report.run_id,
            events=report.events,
            last_seal=report.last_seal,
            added=not is_known,
        )
        for report, is_known in zip(reports, known, strict=True)
    ]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[Recording], BlobSource]]:
    if path.is_dir() or is_zip(path):
        with ParquetStore(path) as sealed:
            runs = sealed.summaries()
            yield [sealed.recording(summary.run_id) for summary in runs], sealed
    else:
        lines = JsonlFile(path)
        yield lines.recordings(), lines


def _checked(recording: Recording, path: Path) -> SealReport:
    report = check_seals(recording.run_id, recording.records())
    if not report.holds:
        raise RecordingError(f"{path}: run {recording.run_id} does not hold: {report.fault}")
    return report


def _is_known(report: SealReport, there: set[str], store: DatabaseStore) -> bool:
    """True where the store has the very same run. Raises StoreError where it has another."""
    if report.run_id not in there:
        return False
    ours = check_seals(report.run_id, store.recording(report.run_id).records())
    if (ours.last_seal, ours.events) != (report.last_seal, report.events):
        raise StoreError(
            f"{store.where} has run {report.run_id} already, and not the same: {ours.events} "
            f"events there, {report.events} in the copy"
        )
    return True
