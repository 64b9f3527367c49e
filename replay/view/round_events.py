"""Events between two rounds: new messages, tool calls, and prunings."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tokentape.recorder import Envelope
from tokentape.recorder.events import (
    CacheDecided,
    HistoryPruned,
    MessageAdded,
    RunResumed,
    SystemPromptCached,
    ToolCalled,
    ToolCaller,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.replay.run_diff.run_outline import ToolExchange
from tokentape.replay.view.prompt_parts import AddedMessage, prompt_parts
from tokentape.replay.view.stream_places import StreamPlaces


@dataclass(slots=True, kw_only=True)
class RoundEvents:
    """The events of a round that its `Turn` does not have."""

    run_id: str
    """The run that recorded it: of an inherited round an ancestor."""
    parts: list[dict[str, Any]]
    exchanges: list[ToolExchange] = field(default_factory=list)
    pruned: dict[str, Any] | None = None
    divergence: tuple[int, int] | None = None
    """Where the last part of the prompt before the diverging token begins, in tokens and in
    characters."""


@dataclass(slots=True)
class EventsByRound:
    """The events of a run, laid out by rounds."""

    rounds: list[RoundEvents] = field(default_factory=list)
    """One for each `TurnStarted`."""
    messages: list[AddedMessage] = field(default_factory=list)
    """Messages that no round began with yet."""
    exchanges: list[ToolExchange] = field(default_factory=list)
    """Tool calls that no round began with yet."""

    @classmethod
    def of(cls, envelopes: Iterable[Envelope]) -> "EventsByRound":
        """Lay out the events of a run, in the order of `Recording.events`."""
        reader = _Reader()
        for envelope in envelopes:
            reader.add(envelope)
        return reader.found


class _Reader:
    def __init__(self) -> None:
        self.found = EventsByRound()
        self._places = StreamPlaces()
        self._conversation: list[dict[str, Any]] = []
        """The messages that a prompt would have, for the indices of `HistoryPruned`."""
        self._committed = 0
        """How many of them a round has begun with."""
        self._numbered = 0
        self._pruned: dict[str, Any] | None = None

    def add(self, envelope: Envelope) -> None:
        event = envelope.event
        if isinstance(event, SystemPromptCached):
            self._add_system(event)
        elif isinstance(event, MessageAdded):
            self._add_message(event)
        elif isinstance(event, ToolCalled | ToolReturned):
            self._add_tool_event(event)
        elif isinstance(event, HistoryPruned):
            self._prune(event)
        elif isinstance(event, RunResumed):
            self._resume()
        elif isinstance(event, TurnStarted):
            self._start(event, envelope.run_id)
        elif isinstance(event, CacheDecided):
            if event.divergence_index is not None and self.found.rounds:
                place = self._places.before(event.divergence_index)
                self.found.rounds[-1].divergence = place
        elif isinstance(event, TurnFinished):
            self._number("assistant", event.text, event.generated_tokens)
            text = event.text + event.stop_text
            self._places.extend(event.generated_tokens, len(text))
            self._commit()

    def _add_system(self, event: SystemPromptCached) -> None:
        self._places = StreamPlaces()
        self._conversation, self._committed = [], 0
        message = AddedMessage(
            role="system",
            content=event.content,
            text=event.text,
            tokens=len(event.ids),
            first_token=0,
            index=self._number("system", event.content, len(event.ids)),
        )
        # A system prompt is cached again where the conversation begins again.
        self.found.messages = [message]
        self._places.extend(len(event.ids), len(event.text))
        self._commit()

    def _add_message(self, event: MessageAdded) -> None:
        message = AddedMessage(
            role=event.role,
            content=event.content,
            text=event.text,
            tokens=len(event.ids),
            first_token=self._places.tokens,
            index=self._number(event.role, event.content, len(event.ids)),
            tool_call_id=event.tool_call_id,
        )
        self.found.messages.append(message)
        self._places.extend(len(event.ids), len(event.text))

    def _number(self, role: str, text: str, tokens: int) -> int:
        """Return the number of the next message of the run."""
        if role != "system" or text:
            self._conversation.append({"role": role, "text": text, "tokens": tokens})
        self._numbered += 1
        return self._numbered - 1

    def _commit(self) -> None:
        self._places.commit()
        self._committed = len(self._conversation)

    def _resume(self) -> None:
        """Remove the messages that no round began with: a resumed run records them again."""
        void = len(self._conversation) - self._committed
        del self._conversation[self._committed :]
        self._numbered -= void
        self.found.messages = [each for each in self.found.messages if each.role == "system"]
        self._places.restore()
        self._pruned = None

    def _add_tool_event(self, event: ToolCalled | ToolReturned) -> None:
        waiting = self.found.exchanges
        of_round = self.found.rounds[-1].exchanges if self.found.rounds else waiting
        if isinstance(event, ToolCalled):
            by_model = event.caller is ToolCaller.MODEL
            (of_round if by_model else waiting).append(ToolExchange(called=event))
            return
        # A call that was interrupted and made again has the same id twice.
        for each in reversed([*of_round, *waiting]):
            if each.called is not None and each.called.call_id == event.call_id:
                if each.returned is None:
                    each.returned = event
                    return
                break
        (waiting if event.turn is None else of_round).append(ToolExchange(returned=event))

    def _prune(self, event: HistoryPruned) -> None:
        chosen = [i for i in event.removed_messages if i < len(self._conversation)]
        self._pruned = {
            "policy": str(event.policy),
            "reason": event.reason,
            "removed_tokens": event.tokens_before - event.tokens_after,
            "removed": [self._conversation[i] for i in chosen],
        }
        for index in sorted(chosen, reverse=True):
            del self._conversation[index]
        self._committed -= sum(index < self._committed for index in chosen)
        self._places.prune(event)

    def _start(self, event: TurnStarted, run_id: str) -> None:
        added = len(event.added_ids)
        messages = self.found.messages
        continues = event.continued_tokens > 0
        parts = (
            [] if continues else prompt_parts(messages, event.added_text, added, event.kept_tokens)
        )
        new = RoundEvents(
            run_id=run_id, parts=parts, exchanges=self.found.exchanges, pruned=self._pruned
        )
        self.found.rounds.append(new)
        self.found.messages, self.found.exchanges, self._pruned = [], [], None
        self._places.cut(event.kept_tokens, event.kept_chars)
        self._places.extend(added, len(event.added_text))
        self._commit()
