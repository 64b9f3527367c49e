"""An event and its place in a run."""

from dataclasses import dataclass

from recorder.events import Event, RunFailed, RunFinished, RunStarted, TurnFinished, TurnStarted

NS_PER_US = 1000


@dataclass(frozen=True, slots=True)
class Envelope:
    """`seq` counts from zero without a hole; `at_ns` is nanoseconds since 1970, in UTC.

    `at_ns` is whole microseconds: what databases and `datetime` can hold. `turn` is where the event
    belongs (see `TurnCounter`), derived from the events. `seal` is the chained hash of the run up
    to and with this event (see `recorder.seals`), where one was set.
    """

    run_id: str
    seq: int
    at_ns: int
    event: Event
    turn: int | None = None
    seal: str | None = None

    def __post_init__(self) -> None:
        if self.at_ns % NS_PER_US:
            raise ValueError(f"at_ns must be whole microseconds: {self.at_ns}")


class TurnCounter:
    """The turn that each event of a run belongs to, told in order.

    An event that names its turn belongs to it. Others belong to the turn under way or, between
    turns, to the coming one, whose prompt they make; those that begin and end a run to none.
    """

    def __init__(self) -> None:
        self._turn = 1

    def turn_of(self, event: Event) -> int | None:
        if isinstance(event, RunStarted | RunFinished | RunFailed):
            return None
        turn: int = getattr(event, "turn", self._turn)
        if isinstance(event, TurnStarted):
            self._turn = turn
        elif isinstance(event, TurnFinished):
            self._turn = turn + 1
        return turn
