"""Events that make the model's prompt."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from tokentape.recorder.escapes import visible, visible_lines
from tokentape.recorder.events.cache import CacheSource
from tokentape.recorder.events.checks import (
    check,
    check_counts,
    check_duration,
    check_ranges,
    check_token_ids,
    check_turn,
    choose,
)
from tokentape.recorder.events.fields import (
    Counts,
    Label,
    PromptText,
    Redact,
    Text,
    TokenIds,
)
from tokentape.recorder.events.traits import BelongsTo, EventBase, EventTraits


class PruningPolicy(StrEnum):
    """Which messages are removed when a prompt does not fit into the context."""

    TOOL_RESULTS = "tool_results"
    """The oldest results of tools."""
    TURNS = "turns"
    """The oldest turns."""


def ids_sha256(ids: Sequence[int]) -> str:
    """Return the hexadecimal sha256 of token ids as little-endian int32, as sealed files hold
    them."""
    return hashlib.sha256(b"".join(i.to_bytes(4, "little", signed=True) for i in ids)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemPromptCached(EventBase):
    """The system prompt was processed once. Every later prompt begins with its ids.

    It begins the stream of ids that `TurnStarted` refers to.
    """

    version: ClassVar[int] = 1
    traits: ClassVar[EventTraits] = EventTraits(belongs_to=BelongsTo.NEXT_TURN)

    content: Text
    text: PromptText
    """`content` as the chat template writes it."""
    ids: TokenIds
    sha256: Annotated[str, Redact.PROMPT]
    """`ids_sha256(ids)`."""
    chunks: Counts
    """The lengths of the forwards, in tokens.

    Empty if the system prompt was cached already, and if the model's cache cannot be reused: then
    every turn computes the system prompt again. With `source` memory, another run of a batch
    computed the system prompt in these forwards.
    """
    duration_us: int
    kv_bytes: int
    """The storage of its keys and values."""
    source: CacheSource = CacheSource.COMPUTED
    """Where its keys and values came from."""
    disk_reason: Text = ""
    """Why a prefix that is stored on disk was not used; empty if none is stored or it was used."""

    def __post_init__(self) -> None:
        choose(self, source=CacheSource)
        check_token_ids(ids=self.ids)
        check_counts(kv_bytes=self.kv_bytes)
        check_duration(self.duration_us)

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        first, *more = self.content.strip().split("\n")
        lines = f" … {len(more)} lines more" if more else ""
        return f"system: {visible(first)}{lines} ({len(self.ids):,} tokens)"

    @property
    def computed_tokens(self) -> int:
        """Return the tokens that this run computed, and no other run of a batch."""
        return 0 if self.source is CacheSource.MEMORY else sum(self.chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAdded(EventBase):
    """A message became a part of the next prompt.

    `ids` and `text` extend the stream. Both are empty if the chat template renders the whole
    history again for each turn: then `TurnStarted` has the ids from the first change on.
    """

    version: ClassVar[int] = 1
    traits: ClassVar[EventTraits] = EventTraits(belongs_to=BelongsTo.NEXT_TURN)

    role: Label
    content: Text
    text: PromptText
    """The text of `ids`: the content and the chat template's text around it."""
    ids: TokenIds
    """The tokens that the model reads."""
    tool_call_id: Text | None = None
    """The call whose result the message is."""
    turn: int | None = None
    """The turn in progress if the model called a tool in it; None for the next turn."""

    def __post_init__(self) -> None:
        check_token_ids(ids=self.ids)
        check_counts(turn=self.turn)

    def describe(self) -> str | None:
        """Return the event as text for a transcript, or None for the result of a tool."""
        if self.tool_call_id is not None:
            return None
        return f"{visible(self.role)}: {visible_lines(self.content)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPruned(EventBase):
    """Messages were removed from the history, so that the next turn fits into the context.

    The ranges are half-open. The rest of the stream closes up, and the messages of the turn follow
    it. If the chat template renders the whole history again for each turn, or the stream did not
    hold this conversation, the ranges are all that differs from the new prompt.
    """

    version: ClassVar[int] = 1

    turn: int
    policy: PruningPolicy
    reason: Text
    removed_tokens: Annotated[tuple[tuple[int, int], ...], Redact.NOTHING]
    """Ranges of ids of the stream before the pruning."""
    removed_chars: Annotated[tuple[tuple[int, int], ...], Redact.PROMPT]
    """Ranges of characters of the stream's text before the pruning."""
    removed_messages: Counts
    """Indices of the removed messages in the conversation; the system prompt has 0."""
    tokens_before: int
    tokens_after: int

    def __post_init__(self) -> None:
        check_turn(self.turn)
        choose(self, policy=PruningPolicy)
        check_ranges(removed_tokens=self.removed_tokens, removed_chars=self.removed_chars)
        check(bool(self.removed_messages), "removed_messages must not be empty")
        check_counts(removed_messages=min(self.removed_messages))
        removed = sum(end - start for start, end in self.removed_tokens)
        check(
            self.tokens_after == self.tokens_before - removed,
            f"tokens_after {self.tokens_after} must be tokens_before {self.tokens_before} "
            f"less {removed} removed",
        )
        check(
            not self.removed_tokens or self.removed_tokens[-1][1] <= self.tokens_before,
            f"removed_tokens {self.removed_tokens} are not within {self.tokens_before} tokens",
        )

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        removed = self.tokens_before - self.tokens_after
        return f"history: {removed:,} tokens removed ({self.policy}: {visible(self.reason)})"
