"""An event with its place in a run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokentape.recorder.events import (
    BelongsTo,
    Event,
    RunForked,
    RunResumed,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.short_forms import short_repr


@dataclass(frozen=True, slots=True, repr=False)
class Envelope:
    """An event as a recorder wrote it into a run."""

    run_id: str
    seq: int
    """Counts the events of the run from zero, without a gap."""
    at_us: int
    """The time of recording in whole microseconds since 1970, in UTC."""
    event: Event
    turn: int | None = None
    """The turn that the event belongs to, as `TurnCounter` derives it."""
    seal: str | None = None
    """The chained hash of the run up to this event, if it carries one; see `recorder.seals`."""

    def __repr__(self) -> str:
        turn = "" if self.turn is None else f"of turn {self.turn}"
        return short_repr(self, f"{self.seq}:", type(self.event).__name__, turn)


class TurnCounter:
    """Derives the turn of each of a run's own events, in order.

    An event that names its turn belongs to it. Any other belongs to the turn that its traits say.
    """

    def __init__(self, started: int = 0) -> None:
        self._started = started
        """The last turn that started."""
        self._in_progress = False

    def turn_of(self, event: Event) -> int | None:
        """Return the turn of the next event of the run, or None if it belongs to no turn."""
        if isinstance(event, RunForked):
            self._started = event.at_turn - 1
        if isinstance(event, RunResumed):
            self._in_progress = event.turn is not None
            return event.turn
        belongs_to = event.traits.belongs_to
        if belongs_to is BelongsTo.RUN:
            return None
        named: int | None = getattr(event, "turn", None)
        if named is not None:
            turn = named
        elif self._in_progress and belongs_to is BelongsTo.CURRENT_TURN:
            turn = self._started
        else:
            turn = self._started + 1
        if isinstance(event, TurnStarted):
            self._started, self._in_progress = turn, True
        elif isinstance(event, TurnFinished):
            self._in_progress = False
        return turn


def number_turns(envelopes: Iterable[Envelope]) -> Iterator[tuple[Envelope, int | None]]:
    """Yield the events of a run in the order of `Recording.events`, each with its turn.

    Each run of a lineage counts its own turns: a fork begins with two events of its own, the events
    that it shares follow, and only after them come its other events, from the forked turn on.
    """
    counters: dict[str, TurnCounter] = {}
    started = 0
    for envelope in envelopes:
        # The events that fork an ancestor are left out: it continues after the turns it shares.
        counter = counters.setdefault(envelope.run_id, TurnCounter(started))
        turn = counter.turn_of(envelope.event)
        if isinstance(envelope.event, TurnStarted):
            started = envelope.event.turn
        yield envelope, turn
