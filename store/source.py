"""What frames and copies are made from: any place that recordings can be read from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from tokentape.recorder import Recording
from tokentape.recorder.projections import RunSummary
from tokentape.store.attachments import Attachment, StoredFloor, StoredVerdict
from tokentape.store.errors import NoSuchRunError


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows and columns to read; None stands for all."""

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
    """What belongs to runs beside their events."""

    def blob(self, sha256: str) -> bytes:
        """The payload under a hexadecimal sha256. Raises StoreError where there is none."""

    def verdicts(self, run_id: str) -> list[StoredVerdict]:
        """What replays found of the run with just that id, the oldest first; empty where nothing.

        Raises StoreError for one that is damaged.
        """

    def floors(self, run_id: str) -> list[StoredFloor]:
        """The noise floors of the run with just that id; as `verdicts`."""


class Source(Attachments, Protocol):
    """A live store, a folder of sealed runs or a tape."""

    where: str

    def summaries(self) -> list[RunSummary]:
        """Every run, the oldest first."""

    def summary(self, run_id: str) -> RunSummary | None:
        """The run with just that id, whatever other runs are like; None where there is none."""

    def recording(self, run_id: str) -> Recording:
        """The run with that id, or with the one id that begins so. Raises NoSuchRunError."""

    def verify_files(self, run_id: str) -> list[str]:
        """What is wrong with the files that a run is in, whatever they hold; empty if nothing."""

    def events_table(self, selection: Selection) -> pa.Table:
        """Events but sampled tokens, with the columns of `store.arrow.EVENTS`, by run and `seq`."""

    def tokens_table(self, selection: Selection) -> pa.Table:
        """Sampled tokens, with the columns of `tokentape.store.arrow.TOKENS`, by run and `seq`.

        `kinds` is ignored. Candidates are read only where `columns` names them.
        """

    def verdicts_table(self, selection: Selection) -> pa.Table:
        """Verdicts without their reports, with the columns of `tokentape.store.arrow.VERDICTS`.

        By run, and the oldest first. `turns` and `kinds` are ignored.
        """


def with_parents(recordings: Iterable[Recording]) -> list[Recording]:
    """The runs and all that they were forked from, each once, a parent before its forks.

    Raises RecordingError where a parent is not at hand, NoSuchRunError where it is not there.
    """
    found: dict[str, Recording] = {}
    for recording in recordings:
        for each in (*reversed(recording.lineage()), recording):
            found.setdefault(each.run_id, each)
    return list(found.values())


def attachments_of(source: Attachments, run_id: str) -> list[Attachment]:
    """Verdicts and floors of a run, all that is kept beside it."""
    return [*source.verdicts(run_id), *source.floors(run_id)]


def resolve_run_id(matches: Iterable[str], wanted: str, where: str) -> str:
    """The one id among those that begin as wanted. Raises NoSuchRunError."""
    found = sorted(matches)
    if wanted in found:
        return wanted
    if not found or not wanted:
        raise NoSuchRunError(f"{where} has no run {wanted!r}")
    if len(found) > 1:
        raise NoSuchRunError(f"{wanted!r} is the beginning of {len(found)} runs in {where}")
    return found[0]
