"""The interface of everything that recordings can be read from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Unpack

import pyarrow as pa

from tokentape.recorder import Recording
from tokentape.recorder.given_recording import check_recording
from tokentape.recorder.projections import RunSummary
from tokentape.store.attachments import Attachment, StoredFloor, StoredLabel, StoredVerdict
from tokentape.store.labels import Labels
from tokentape.store.run_conditions import RunConditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows and columns to read; None selects all."""

    run_ids: tuple[str, ...] | None = None
    """Full ids; an unknown one selects nothing."""
    turns: tuple[int, ...] | None = None
    kinds: tuple[str, ...] | None = None
    """Kinds of events; ignored for tokens and verdicts."""
    after_seq: int | None = None
    """Only rows of each run with a greater `seq`; earlier rows are not read. Ignored for
    verdicts."""
    columns: tuple[str, ...] | None = None
    """Names of columns. `run_id`, `seq` and `at` are always read."""


class Attachments(Protocol):
    """What belongs to runs outside their events: payloads, verdicts, noise floors, labels."""

    def blob(self, sha256: str) -> bytes:
        """Return the payload with a hexadecimal sha256. Raise StoreError if it is missing."""

    def verdicts(self, run_id: str) -> list[StoredVerdict]:
        """Return the verdicts of the run with exactly that id, the oldest first.

        Raise StoreError for a damaged one.
        """

    def floors(self, run_id: str) -> list[StoredFloor]:
        """Return the noise floors of the run with exactly that id, the oldest first.

        Raise StoreError for a damaged one.
        """

    def labels(self, run_id: str) -> list[StoredLabel]:
        """Return the tags added to or removed from a run, and its notes, the oldest first.

        Raise StoreError for a damaged one.
        """


class OpenRecording(Protocol):
    """A run that is being recorded."""

    def end_quietly(self) -> None:
        """Record the end of the run; never raise."""


class CheckedSource(Attachments, Protocol):
    """Runs as `check` reads them: those of a `Source`, or of a file of JSON lines."""

    where: str
    """The URL or path, for messages."""

    def summary(self, run_id: str) -> RunSummary | None:
        """Return the summary of the run with exactly that id; None for an unknown one.

        Damage of other runs does not matter.
        """

    def recording(self, run_id: str) -> Recording:
        """Return the run with that id, with the only id that begins so, or of that name.

        Raise NoSuchRunError; see `tokentape.store.run_names.find_run_id`.
        """

    def verify_files(self, run_id: str) -> list[str]:
        """Return the faults of the files that contain a run, a line each."""


class Source(CheckedSource, Protocol):
    """A live store, a folder of sealed runs or a tape."""

    def summaries(self, **where: Unpack[RunConditions]) -> list[RunSummary]:
        """Return a summary of each run that fulfils the conditions, the oldest first."""

    def last_event_at_us(self, run_id: str) -> int:
        """Return the time of the newest event that is known of the run with exactly that id.

        Microseconds since 1970; 0 for an unknown run.
        """

    def labels_by_run(self) -> dict[str, Labels]:
        """Return the tags and notes of the runs that have any, by run id.

        A damaged label is left out: `check` reports it.
        """

    def events_table(self, selection: Selection) -> pa.Table:
        """Return all events but sampled tokens, ordered by run and `seq`.

        The columns are those of `tokentape.store.arrow.EVENTS`.
        """

    def tokens_table(self, selection: Selection) -> pa.Table:
        """Return sampled tokens, ordered by run and `seq`.

        The columns are those of `tokentape.store.arrow.TOKENS`. `top_ids` and `top_logprobs` are
        read only if `selection.columns` names them.
        """

    def verdicts_table(self, selection: Selection) -> pa.Table:
        """Return verdicts without their reports, ordered by run and time.

        The columns are those of `tokentape.store.arrow.VERDICTS`. Only `run_ids` and `columns` of
        the selection apply.
        """


def with_parents(recordings: Iterable[Recording]) -> list[Recording]:
    """Return the runs and all their ancestors once each, every parent before its forks.

    Raise NoSuchRunError if a parent is missing, RecordingError if a recording cannot look it up,
    and TypeError for a value that is no recording.
    """
    found: dict[str, Recording] = {}
    for recording in recordings:
        check_recording(recording)
        for each in (*reversed(recording.lineage()), recording):
            found.setdefault(each.run_id, each)
    return list(found.values())


def attachments_of(source: Attachments, run_id: str) -> list[Attachment]:
    """Return the verdicts, floors and labels of a run."""
    return [*source.verdicts(run_id), *source.floors(run_id), *source.labels(run_id)]
