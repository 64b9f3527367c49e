"""The schedule of a run: every change of its cache and every forward, in the recorded order."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tokentape.recorder import RecordingError
from tokentape.recorder.events import (
    CacheCleared,
    CacheDecided,
    ForwardsShared,
    PrefillCompleted,
    RunResumed,
    RunStarted,
    SystemPromptCached,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.projections import Turn
from tokentape.replay.recorded.loaded_run import LoadedRun


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessBegan:
    """A process began to record, with an empty cache: the run's first, a fork's or a resumed one.

    Both events say with how many threads it computed and on what machine.
    """

    event: RunStarted | RunResumed


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundForwards:
    """A prefill of a round, and the tokens that were sampled after it.

    A round has one, and another one for each process that continued it.
    """

    turn: Turn
    decided: CacheDecided
    chunks: tuple[int, ...]
    """The lengths of the forwards of the prefill, in tokens."""
    start: int
    """Index of the first token, counted from the beginning of the round."""
    end: int
    commits: bool
    """Whether the process that computed it ended the round, and so cached its states."""
    cleared: bool = False
    """Whether the rest of the cache was cleared meanwhile."""
    shared: Mapping[int, ForwardsShared] = field(default_factory=dict)
    """By index of a token: with what it and those after it were forwarded; before, alone."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the prefill: the prompt and the tokens sampled by earlier processes."""
        return (*self.turn.prompt_ids, *self.turn.reply_ids[: self.start])

    def forwarded_with(self) -> Iterator[ForwardsShared | None]:
        """Yield for each token after the first with what it was forwarded, or None if alone."""
        now: ForwardsShared | None = None
        for index in range(self.start + 1, self.end):
            now = self.shared.get(index, now)
            yield now if now is not None and now.rows > 1 else None


Step = ProcessBegan | SystemPromptCached | CacheCleared | RoundForwards


def schedule_of(run: LoadedRun) -> list[Step]:
    """Return the schedule of a whole run, with the turns that a fork shares with its parents.

    Raise RecordingError if a round has tokens and no prefill.
    """
    of_model = {id(turn) for turn in run.turns_of_model}
    return [
        each
        for each in _steps(run)
        if not isinstance(each, RoundForwards) or id(each.turn) in of_model
    ]


def steps_to_retrace(steps: Sequence[Step], numbers: Iterable[int]) -> list[Step]:
    """Return the steps that the turns with these numbers depend on, through their cache.

    They begin with the process whose cache the first of the turns had.
    """
    wanted = set(numbers)
    places = [
        place
        for place, step in enumerate(steps)
        if isinstance(step, RoundForwards) and step.turn.number in wanted
    ]
    began = max(
        place for place, step in enumerate(steps[: places[0]]) if isinstance(step, ProcessBegan)
    )
    return list(steps[began : places[-1] + 1])


def _steps(run: LoadedRun) -> Iterator[Step]:
    rounds = iter(run.turns)
    open_round: _OpenRound | None = None
    for envelope in run.envelopes:
        event = envelope.event
        if isinstance(event, RunStarted | RunResumed):
            if open_round is not None:
                yield from open_round.forwards(resumed=event)
            if isinstance(event, RunStarted) or event.turn is None:
                open_round = None
            yield ProcessBegan(event=event)
        elif isinstance(event, CacheCleared) and open_round is not None:
            open_round.cleared = True
        elif isinstance(event, SystemPromptCached | CacheCleared):
            yield event
        elif isinstance(event, TurnStarted):
            if open_round is not None:
                yield from open_round.forwards()
            open_round = _OpenRound(next(rounds))
        elif isinstance(event, CacheDecided) and open_round is not None:
            open_round.decided = event
        elif isinstance(event, PrefillCompleted) and open_round is not None:
            open_round.chunks = event.chunks
        elif isinstance(event, ForwardsShared) and open_round is not None:
            open_round.shared[event.step - open_round.turn.first_step] = event
        elif isinstance(event, TurnFinished) and open_round is not None:
            yield from open_round.forwards(finished=True)
            open_round = None
    if open_round is not None:
        yield from open_round.forwards()


class _OpenRound:
    """A round whose events are being read."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.decided: CacheDecided | None = None
        self.chunks: tuple[int, ...] = ()
        self.cleared = False
        self.shared: dict[int, ForwardsShared] = {}
        self._done = 0

    def forwards(
        self, *, resumed: RunStarted | RunResumed | None = None, finished: bool = False
    ) -> Iterator[RoundForwards]:
        """Yield the forwards that end here, if their prefill was completed."""
        turn, end = self.turn, len(self.turn.tokens)
        if isinstance(resumed, RunResumed) and resumed.step is not None:
            end = resumed.step - turn.first_step
        decided, chunks, cleared, shared = self.decided, self.chunks, self.cleared, self.shared
        self.decided, self.chunks, self.cleared, self.shared = None, (), False, {}
        if decided is None or not chunks:
            if end > self._done:
                raise RecordingError(
                    f"turn {turn.number} has tokens and no prefill before them: events are missing"
                )
            return
        start, self._done = self._done, end
        yield RoundForwards(
            turn=turn,
            decided=decided,
            chunks=chunks,
            start=start,
            end=end,
            commits=finished,
            cleared=cleared,
            shared=shared,
        )
