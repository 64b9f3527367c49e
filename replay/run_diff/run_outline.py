"""A run laid out by turns, for a comparison: what each has besides its tokens, and whose words
its prompt is made of."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tokentape.recorder import Envelope, Recording, RecordingError
from tokentape.recorder.envelope import TurnCounter
from tokentape.recorder.events import (
    CacheCleared,
    CacheEvicted,
    HistoryPruned,
    MessageAdded,
    RunFailed,
    RunFinished,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.projections import Turn, iterate_turns, whole_turns
from tokentape.replay.run_diff.diff_types import Place


@dataclass(frozen=True, slots=True)
class Span:
    """So many ids of a stream, and whose they are."""

    tokens: int
    place: Place


@dataclass(frozen=True, slots=True)
class PlacedMessage:
    """A message, and what the template made of it; empty where it wrote the history anew."""

    place: Place
    content: str
    text: str
    ids: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class ToolUse:
    """A call and what came of it; either may be missing in a run that was cut off or altered."""

    called: ToolCalled | None = None
    returned: ToolReturned | None = None


@dataclass(slots=True, kw_only=True)
class TurnOutline:
    """`turn` is None for what comes behind the last turn of a run. `spans` make its prompt."""

    number: int
    turn: Turn | None = None
    spans: tuple[Span, ...] = ()
    messages: list[PlacedMessage] = field(default_factory=list)
    tools: list[ToolUse] = field(default_factory=list)
    system: list[SystemPromptCached] = field(default_factory=list)
    freed: list[CacheCleared | CacheEvicted] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutline:
    """`withheld` says that a redactor kept the ids back; `ended` is None where nothing says so."""

    run_id: str
    where: str
    started: RunStarted
    ended: RunFinished | RunFailed | None
    turns: dict[int, TurnOutline]

    @property
    def withheld(self) -> bool:
        return self.started.redacted

    @property
    def begun(self) -> list[Turn]:
        return [each.turn for each in self.turns.values() if each.turn is not None]


def outline(recording: Recording) -> RunOutline:
    """Read a run once. Raises RecordingError where its events contradict each other."""
    envelopes = list(recording.events())
    if not envelopes or not isinstance(envelopes[0].event, RunStarted):
        raise RecordingError(f"run {recording.run_id} has no RunStarted")
    last = envelopes[-1].event
    turns = _laid_out(envelopes)
    begun: set[int] = set()
    for turn in whole_turns(iterate_turns(envelopes)):
        if turn.number in begun:
            raise RecordingError(f"run {recording.run_id} has turn {turn.number} twice")
        begun.add(turn.number)
        turns[turn.number].turn = turn
    return RunOutline(
        run_id=recording.run_id,
        where=recording.where,
        started=envelopes[0].event,
        ended=last if isinstance(last, RunFinished | RunFailed) else None,
        turns=turns,
    )


def _laid_out(envelopes: Iterable[Envelope]) -> dict[int, TurnOutline]:
    turns: dict[int, TurnOutline] = {}
    counter = TurnCounter()
    stream = _Stream()
    for envelope in envelopes:
        event = envelope.event
        if isinstance(event, TokenSampled):
            continue
        # Derived anew, not as it is filed: that is only an index.
        number = counter.turn_of(event)
        if number is None:
            continue
        outlined = turns.setdefault(number, TurnOutline(number=number))
        stream.take(event, outlined)
        if isinstance(event, ToolCalled):
            outlined.tools.append(ToolUse(called=event))
        elif isinstance(event, ToolReturned):
            _use_of(outlined.tools, event).returned = event
        elif isinstance(event, CacheCleared | CacheEvicted):
            outlined.freed.append(event)
    return turns


def _use_of(uses: list[ToolUse], event: ToolReturned) -> ToolUse:
    """The call that the event is the answer to; a use without a call where there is none."""
    for use in uses:
        if use.called is not None and use.called.call_id == event.call_id and not use.returned:
            return use
    uses.append(ToolUse())
    return uses[-1]


class _Stream:
    """Whose the ids are that the model has before it: as `recorder.projections.turns` builds them,
    in spans."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._messages = 0

    def take(self, event: object, outlined: TurnOutline) -> None:
        if isinstance(event, SystemPromptCached):
            outlined.system.append(event)
            place = self._add_message(outlined, event, "system")
            self._spans = [Span(len(event.ids), place)]
        elif isinstance(event, MessageAdded):
            place = self._add_message(outlined, event, event.role, event.tool_call_id)
            self._spans.append(Span(len(event.ids), place))
        elif isinstance(event, HistoryPruned):
            for start, end in reversed(event.removed_tokens):
                self._cut(start, end)
        elif isinstance(event, TurnStarted):
            self._cut(event.kept_tokens, sum(span.tokens for span in self._spans))
            place = Place(role="template", turn=event.turn)
            self._spans.append(Span(len(event.added_ids), place))
            outlined.spans = tuple(self._spans)
        elif isinstance(event, TurnFinished):
            place = self._next_place("assistant", event.turn)
            self._spans.append(Span(event.generated_tokens, place))

    def _add_message(
        self,
        outlined: TurnOutline,
        event: SystemPromptCached | MessageAdded,
        role: str,
        call_id: str | None = None,
    ) -> Place:
        place = self._next_place(role, outlined.number, call_id)
        outlined.messages.append(PlacedMessage(place, event.content, event.text, event.ids))
        return place

    def _next_place(self, role: str, turn: int, call_id: str | None = None) -> Place:
        self._messages += 1
        return Place(role=role, turn=turn, message=self._messages - 1, tool_call_id=call_id)

    def _cut(self, start: int, end: int) -> None:
        """Take out a half-open range; what is left closes up."""
        left, at = [], 0
        for span in self._spans:
            kept = span.tokens - max(0, min(at + span.tokens, end) - max(at, start))
            at += span.tokens
            if kept:
                left.append(Span(kept, span.place))
        self._spans = left
