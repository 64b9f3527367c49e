"""A run laid out by turns, with the source of each part of a prompt, for a comparison."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tokentape.recorder import Envelope, Recording, RecordingError
from tokentape.recorder.envelope import number_turns
from tokentape.recorder.events import (
    ActivationObserved,
    CacheCleared,
    CacheEvicted,
    HistoryPruned,
    InterventionRequested,
    InterventionWithdrawn,
    MessageAdded,
    RunFailed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    TokensSpelled,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.given_recording import check_recording
from tokentape.recorder.projections import Turn, iterate_joined, iterate_turns
from tokentape.replay.run_diff.diff_types import TextSource


@dataclass(frozen=True, slots=True)
class PromptSpan:
    """Consecutive ids of a prompt that have one source."""

    tokens: int
    source: TextSource


@dataclass(frozen=True, slots=True)
class OutlinedMessage:
    """A message with its rendering."""

    source: TextSource
    content: str
    text: str
    """The message as the chat template renders it; empty, as are `ids`, where the whole history was
    rendered again."""
    ids: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class ToolExchange:
    """A tool call and its result; one is missing in runs that were cut off or altered."""

    called: ToolCalled | None = None
    returned: ToolReturned | None = None


@dataclass(slots=True, kw_only=True)
class TurnOutline:
    """One turn and the events that belong to it, except its tokens."""

    number: int
    begun: bool = False
    """Whether the turn started; False for the events after the last turn of a run."""
    turn: Turn | None = None
    """None for a turn that did not begin."""
    spans: tuple[PromptSpan, ...] = ()
    """The spans of the prompt, in order."""
    messages: list[OutlinedMessage] = field(default_factory=list)
    """The turn's own messages."""
    tools: list[ToolExchange] = field(default_factory=list)
    system: list[SystemPromptCached] = field(default_factory=list)
    freed: list[CacheCleared | CacheEvicted] = field(default_factory=list)
    activations: list[dict[str, Any]] = field(default_factory=list)
    """The fields of each observation."""
    requests: list[InterventionRequested | InterventionWithdrawn] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutline:
    """A run laid out by turns."""

    run_id: str
    where: str
    started: RunStarted
    ended: RunFinished | RunFailed | None
    """None where no event ends the run."""
    forked: RunForked | None
    """The event that names the parent of a fork; None for other runs."""
    turns: dict[int, TurnOutline]
    """Without their `turn`, which `TurnReader` rebuilds."""
    envelopes: Sequence[Envelope]

    @property
    def status_text(self) -> str:
        """`running` if no event ends the run, else its status, with the error if it failed."""
        return "running" if self.ended is None else self.ended.status_text

    @property
    def redacted(self) -> bool:
        """Whether a redactor removed the ids."""
        return self.started.redacted

    @property
    def begun_turns(self) -> int:
        """How many turns began."""
        return sum(each.begun for each in self.turns.values())

    def spelled(self) -> dict[int, str]:
        """Return the texts that the run recorded of token ids."""
        return {
            int(token_id): text
            for each in self.envelopes
            if isinstance(each.event, TokensSpelled)
            for token_id, text in each.event.texts.items()
        }

    @property
    def tokens(self) -> int:
        """How many tokens were sampled."""
        return sum(isinstance(each.event, TokenSampled) for each in self.envelopes)


class TurnReader:
    """Rebuilds the turns of an outline one after another, so that few prompts are in memory."""

    def __init__(self, outline: RunOutline) -> None:
        self._outline = outline
        self._turns = iterate_joined(iterate_turns(outline.envelopes))
        self._ahead: dict[int, Turn] = {}
        self._given: set[int] = set()

    def outline(self, number: int) -> TurnOutline | None:
        """Return the outline of a turn, rebuilt; None if the run has no events of it.

        Raise RecordingError if the events contradict each other.
        """
        outlined = self._outline.turns.get(number)
        if outlined is None or not outlined.begun:
            return outlined
        while number not in self._ahead:
            turn = next(self._turns)
            if turn.number in self._given or turn.number in self._ahead:
                raise RecordingError(f"run {self._outline.run_id} has turn {turn.number} twice")
            self._ahead[turn.number] = turn
        self._given.add(number)
        return replace(outlined, turn=self._ahead.pop(number))

    def check_rest(self) -> None:
        """Rebuild the remaining turns. Raise RecordingError if one is repeated."""
        for turn in self._turns:
            raise RecordingError(f"run {self._outline.run_id} has turn {turn.number} twice")


def outline_run(recording: Recording) -> RunOutline:
    """Read a run once and lay it out by turns.

    Raise RecordingError if its events are damaged, and TypeError for a value that is no recording.
    """
    check_recording(recording)
    envelopes = list(recording.events())
    if not envelopes or not isinstance(envelopes[0].event, RunStarted):
        raise RecordingError(f"run {recording.run_id} has no RunStarted")
    second, last = [each.event for each in envelopes[1:2]], envelopes[-1].event
    return RunOutline(
        run_id=recording.run_id,
        where=recording.where,
        started=envelopes[0].event,
        ended=last if isinstance(last, RunFinished | RunFailed) else None,
        forked=next((event for event in second if isinstance(event, RunForked)), None),
        turns=_outline_turns(envelopes),
        envelopes=envelopes,
    )


def _outline_turns(envelopes: Iterable[Envelope]) -> dict[int, TurnOutline]:
    turns: dict[int, TurnOutline] = {}
    stream = _Stream()
    # Computed from the events: the turn that stores file an event under is only an index.
    for envelope, number in number_turns(envelopes):
        event = envelope.event
        if isinstance(event, TokenSampled):
            continue
        if isinstance(event, RunResumed):
            stream.resume()
        if number is None:
            continue
        outlined = turns.setdefault(number, TurnOutline(number=number))
        stream.add(event, outlined)
        if isinstance(event, ToolCalled):
            outlined.tools.append(ToolExchange(called=event))
        elif isinstance(event, ToolReturned):
            _exchange_of(outlined.tools, event).returned = event
        elif isinstance(event, CacheCleared | CacheEvicted):
            outlined.freed.append(event)
        elif isinstance(event, InterventionRequested | InterventionWithdrawn):
            outlined.requests.append(event)
        elif isinstance(event, ActivationObserved):
            outlined.activations.append(asdict(event))
    return turns


def _exchange_of(exchanges: list[ToolExchange], event: ToolReturned) -> ToolExchange:
    """Return the exchange whose call the event answers; append one without a call if none has.

    A call that was interrupted and made again has the same id twice: the later one is answered.
    """
    for each in reversed(exchanges):
        if each.called is not None and each.called.call_id == event.call_id and not each.returned:
            return each
    exchanges.append(ToolExchange())
    return exchanges[-1]


class _Stream:
    """The spans of the prompt that grows with the events of a run.

    Follows the rules by which `recorder.projections.turns` builds the ids of prompts.
    """

    def __init__(self) -> None:
        self._spans: list[PromptSpan] = []
        self._messages = 0
        # What a resumed run continues with: messages that no turn began with are void.
        self._committed: tuple[list[PromptSpan], int] = ([], 0)
        self._unread: list[TurnOutline] = []
        """The turns that messages were added to since then, once for each message."""

    def resume(self) -> None:
        """Remove the messages that no turn began with: a resumed run records them again."""
        spans, self._messages = self._committed
        self._spans = list(spans)
        for outlined in self._unread:
            outlined.messages.pop()
        self._unread = []

    def _commit(self) -> None:
        self._committed = list(self._spans), self._messages
        self._unread = []

    def add(self, event: object, outlined: TurnOutline) -> None:
        if isinstance(event, SystemPromptCached):
            outlined.system.append(event)
            source = self._add_message(outlined, event, "system")
            self._spans = [PromptSpan(len(event.ids), source)]
            self._commit()
        elif isinstance(event, MessageAdded):
            source = self._add_message(outlined, event, event.role, event.tool_call_id)
            self._spans.append(PromptSpan(len(event.ids), source))
            self._unread.append(outlined)
        elif isinstance(event, HistoryPruned):
            for start, end in reversed(event.removed_tokens):
                self._cut(start, end)
        elif isinstance(event, TurnStarted):
            outlined.begun = True
            tokens = sum(span.tokens for span in self._spans)
            if tokens > event.kept_tokens:
                self._cut(event.kept_tokens, tokens)
            role = "assistant" if event.continued_tokens else "template"
            source = TextSource(role=role, turn=event.turn)
            self._spans.append(PromptSpan(len(event.added_ids), source))
            outlined.spans = tuple(self._spans)
            self._commit()
        elif isinstance(event, TurnFinished):
            source = self._next_source("assistant", event.turn)
            self._spans.append(PromptSpan(event.generated_tokens, source))
            self._commit()

    def _add_message(
        self,
        outlined: TurnOutline,
        event: SystemPromptCached | MessageAdded,
        role: str,
        call_id: str | None = None,
    ) -> TextSource:
        source = self._next_source(role, outlined.number, call_id)
        outlined.messages.append(OutlinedMessage(source, event.content, event.text, event.ids))
        return source

    def _next_source(self, role: str, turn: int, call_id: str | None = None) -> TextSource:
        self._messages += 1
        return TextSource(role=role, turn=turn, message=self._messages - 1, tool_call_id=call_id)

    def _cut(self, start: int, end: int) -> None:
        """Remove a half-open range of ids; the spans after it move up."""
        spans, index = [], 0
        for span in self._spans:
            removed = max(0, min(index + span.tokens, end) - max(index, start))
            index += span.tokens
            if span.tokens > removed:
                spans.append(PromptSpan(span.tokens - removed, span.source))
        self._spans = spans
