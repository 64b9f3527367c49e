"""Import of runs from files into a live store, after all that `check` checks."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tokentape.recorder import Recording, RecordingError
from tokentape.recorder.events import RunForked
from tokentape.recorder.seals import SealReport, check_seals
from tokentape.store.copies.foreign import ForeignCopy, foreign_copy
from tokentape.store.copies.imported import Imported
from tokentape.store.copies.jsonl import JsonlFile
from tokentape.store.errors import AlteredRunError, NoSuchRunError, StoreError
from tokentape.store.integrity import own_fault, parent_faults
from tokentape.store.live.database import DatabaseStore
from tokentape.store.objects.object_path import ObjectPath
from tokentape.store.objects.staging import staging_folder
from tokentape.store.objects.urls import ObjectUrl, file_location
from tokentape.store.sealed.reader import ParquetStore
from tokentape.store.sealed.tape import is_zip, is_zip_object
from tokentape.store.source import CheckedSource, attachments_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedCopy:
    """The runs of a file, in which `check` finds no fault, and the reports on their seals.

    What a fork shares with its parent, which may be in the store, is checked by `add_to`.
    """

    recordings: tuple[Recording, ...]
    reports: tuple[SealReport, ...]
    source: CheckedSource

    def add_to(self, store: DatabaseStore) -> list[Imported]:
        """Add the events and attachments that the store lacks, each run in one transaction.

        A run that the store has the beginning of is extended; a copy that is shorter than the
        store's adds only attachments. Before anything is added, raise StoreError if the store has
        a different run with that id or erased it, and RecordingError for a fork whose parent is
        neither in the file nor in the store.
        """
        stored = [_stored(each, report, store) for each, report in self._runs()]
        self._check_parents(store)
        imported = []
        for (recording, report), ours in zip(self._runs(), stored, strict=True):
            events_there = ours.events if ours is not None else 0
            added_events = max(report.events - events_there, 0)
            if added_events:
                store.import_run(recording, self.source, events_there=events_there)
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
        for attachment in attachments_of(self.source, run_id):
            store.add_attachment(attachment)

    def _check_parents(self, store: DatabaseStore) -> None:
        """Raise RecordingError for a fork whose shared events would be missing."""
        here = {each.run_id: each for each in self.recordings}
        forks: dict[str, list[tuple[Recording, RunForked]]] = {}
        for recording in self.recordings:
            forked = recording.forked()
            if forked is not None:
                forks.setdefault(forked.parent_run_id, []).append((recording, forked))
        for parent_run_id, family in forks.items():
            parents = [here[parent_run_id]] if parent_run_id in here else []
            with suppress(NoSuchRunError):
                parents.append(store.recording(parent_run_id))
            events = [forked for _, forked in family]
            # One of the two begins with the other, and the store will have the longer one.
            found = [
                parent_faults(events, each) for each in parents if each.run_id == parent_run_id
            ]
            for place, (recording, _) in enumerate(family):
                faults = [each[place] for each in found]
                if "" not in faults:
                    why = faults[0] if faults else f"run {parent_run_id}, is missing"
                    raise RecordingError(
                        f"{recording.where}: run {recording.run_id} is a fork, and its parent, "
                        f"{why}"
                    )


def import_runs(path: Path | str, store: DatabaseStore) -> list[Imported]:
    """Add the runs of a tape, a Parquet folder or a JSON Lines file to a live store, unchanged.

    The file or folder may be in an object store: `path` is its URL then. Each conversation in a log
    of Inspect, or in lines of chat messages as OpenAI has them, becomes a run without tokens: see
    docs/exports.md.

    A run that the store has in part is extended; one that it has adds nothing. Raise StoreError if
    the file cannot be read or the store has a different run with the same id, RecordingError for a
    run in which `tokentape.check` finds a fault. Then nothing is added.

    Example:
        >>> import tokentape as tt
        >>> tape = tt.pack([store.recording(run_id)], store, tmp_path / "run.tape")
        >>> with tt.open_store("sqlite://") as other:
        ...     (imported,) = tt.import_runs(tape, other)
        >>> imported.run_id == run_id, imported.added
        (True, True)
    """
    with checked_copy(file_location(path)) as copy:
        return copy.add_to(store)


@contextmanager
def checked_copy(path: Path | ObjectUrl) -> Iterator[CheckedCopy | ForeignCopy]:
    """Yield the runs or conversations of a file after checking all of them.

    Raise StoreError if the file cannot be read, RecordingError for a run with a fault.
    """
    if isinstance(path, ObjectUrl):
        with _checked_object(ObjectPath.connect(path)) as copy:
            yield copy
    elif not path.is_dir() and (foreign := foreign_copy(path)) is not None:
        yield foreign
    elif path.is_dir() or is_zip(path):
        with ParquetStore(path) as sealed:
            yield _checked_runs(sealed)
    else:
        lines = JsonlFile(path)
        yield _checked(lines.recordings(), lines)


@contextmanager
def _checked_object(path: ObjectPath) -> Iterator[CheckedCopy | ForeignCopy]:
    kind = path.kind()
    if kind == "missing":
        raise StoreError(f"cannot read {path}: it does not exist")
    if kind == "folder" or (is_zip_object(path) and not path.key.endswith(".eval")):
        with ParquetStore(path) as sealed:
            yield _checked_runs(sealed)
        return
    with staging_folder() as made:
        # Lines are read a few times, here and there.
        copy = made / "copy"
        path.download(copy)
        foreign = foreign_copy(copy, str(path))
        if foreign is not None:
            yield foreign
            return
        lines = JsonlFile(copy, str(path))
        yield _checked(lines.recordings(), lines)


def _checked_runs(sealed: ParquetStore) -> CheckedCopy:
    found = [sealed.recording(summary.run_id) for summary in sealed.summaries()]
    return _checked(found, sealed)


def _checked(recordings: list[Recording], source: CheckedSource) -> CheckedCopy:
    for each in recordings:
        fault = own_fault(source, each.run_id)
        if fault:
            raise AlteredRunError(f"{source.where}: run {each.run_id} is altered: {fault}")
    reports = tuple(check_seals(each.run_id, each.records()) for each in recordings)
    return CheckedCopy(recordings=tuple(recordings), reports=reports, source=source)


def _stored(recording: Recording, report: SealReport, store: DatabaseStore) -> SealReport | None:
    """Return the report on the store's copy of the run; None if it has no such run.

    Raise StoreError if it has a different run with that id, or erased it.
    """
    run_id = recording.run_id
    if store.summary(run_id) is None:
        store.check_not_erased(run_id)
        return None
    theirs = store.recording(run_id)
    ours = check_seals(run_id, theirs.records())
    if ours.fault:
        raise StoreError(f"{store.where} already has run {run_id}, which is damaged: {ours.fault}")
    events = min(ours.events, report.events)
    if _first(events, ours, theirs) != _first(events, report, recording):
        raise StoreError(
            f"{store.where} already has a different run {run_id}: of its {ours.events} events and "
            f"the {report.events} of the copy, neither begins with the other"
        )
    return ours


def _first(events: int, report: SealReport, recording: Recording) -> SealReport:
    """Return the report on the first events; `report` is the report on all."""
    if report.events == events:
        return report
    return check_seals(recording.run_id, islice(recording.records(), events))
