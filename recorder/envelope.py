"""An event and its place in a run."""

from dataclasses import dataclass

from tokentape.recorder.events import (
    Event,
    MessageAdded,
    RunFailed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    SystemPromptCached,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """`seq` counts from zero without a hole; `at_us` is whole microseconds since 1970, in UTC.

    Microseconds are what databases and `datetime` can hold. `turn` is where the event
    belongs (see `TurnCounter`), derived from the events. `seal` is the chained hash of the run up
    to and with this event (see `tokentape.recorder.seals`), where one was set.
    """

    run_id: str
    seq: int
    at_us: int
    event: Event
    turn: int | None = None
    seal: str | None = None


class TurnCounter:
    """The turn that each event of a run belongs to, told in order.

    An event that names its turn belongs to it. What makes a prompt belongs to the coming turn, also
    where the last one was cut off; other events to the turn under way or, between turns, to the
    coming one; those that begin, fork and end a run to none.
    """

    def __init__(self) -> None:
        self._started = 0
        self._under_way = False

    def turn_of(self, event: Event) -> int | None:
        if isinstance(event, RunForked):
            self._started = event.at_turn - 1
        if isinstance(event, RunResumed):
            self._under_way = event.turn is not None
            return event.turn
        if isinstance(event, _OF_NO_TURN):
            return None
        makes_prompt = isinstance(event, _MAKE_PROMPTS)
        coming = self._started if self._under_way and not makes_prompt else self._started + 1
        named: int | None = getattr(event, "turn", None)
        turn = coming if named is None else named
        if isinstance(event, TurnStarted):
            self._started, self._under_way = turn, True
        elif isinstance(event, TurnFinished):
            self._under_way = False
        return turn


_OF_NO_TURN = (RunStarted, RunForked, RunFinished, RunFailed)
_MAKE_PROMPTS = (SystemPromptCached, MessageAdded, ToolCalled, ToolReturned)
