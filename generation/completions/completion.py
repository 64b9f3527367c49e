"""A reply to a request, with its tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tokentape.recorder.chat_messages import ChatMessage, ChatToolCall
from tokentape.recorder.events import CacheDecided, TokenSampled


class FinishReason(StrEnum):
    """Why a reply ended, in the words of chat completions."""

    STOP = "stop"
    """The model ended it, or a stop string did."""
    LENGTH = "length"
    """It has as many tokens as were asked for."""
    TOOL_CALLS = "tool_calls"
    """It ends with calls, whose results the client sends next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedCall:
    """A tool call of a reply."""

    call_id: str
    """The id that is recorded, and that the client's result must name."""
    name: str
    """Empty if the call is malformed and has no readable name."""
    arguments: Mapping[str, Any]
    """Empty if the call is malformed."""
    text: str
    """The call as the model wrote it."""
    error: str = ""
    """What is wrong with a malformed call; empty for a well-formed one."""

    @property
    def as_sent(self) -> ChatToolCall:
        """The call as a client sends it again."""
        return ChatToolCall(call_id=self.call_id, name=self.name, arguments=self.arguments)


class Continuation(StrEnum):
    """How the run of a reply came to be."""

    CONTINUED = "continued"
    """The run has every message of the request but the newest."""
    FORKED = "forked"
    """The run shares the turns of another one before the first message that differs."""
    STARTED = "started"
    """The run begins with this request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The reply to a `ChatRequest`, which is a recorded turn of a run."""

    run_id: str
    turn: int
    continuation: Continuation
    message: ChatMessage
    """The reply as a client sends it again: its text without the calls, and the well-formed calls.

    The text of a malformed call stays in the content. A stop string, and what follows it, does not.
    """
    text: str
    """The whole text of the reply, the calls included."""
    calls: tuple[CompletedCall, ...]
    """All calls with which the reply ends, the malformed ones, too."""
    stop_reason: str
    """As recorded; see `recorder.events.StopReason`."""
    finish_reason: FinishReason
    tokens: tuple[TokenSampled, ...]
    """The sampled tokens, the end-of-sequence token included, with their log-probabilities."""
    pieces: tuple[str, ...]
    """The text that each token adds; together they are `text` and the end's token."""
    prompt_tokens: int
    cache: CacheDecided
    seed: int | None
    """That of the turn; None for a greedy one."""
    duration_us: int
