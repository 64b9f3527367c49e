"""What the model is given to read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tokentape.recorder.events._check import (
    check,
    check_counts,
    check_microseconds,
    check_ranges,
    check_token_ids,
)

PRUNING_POLICIES = ("tool_results", "turns")


def ids_sha256(ids: Sequence[int]) -> str:
    """Hexadecimal sha256 of token ids as little-endian int32, the form in which files keep them."""
    return hashlib.sha256(b"".join(i.to_bytes(4, "little", signed=True) for i in ids)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemPromptCached:
    """The system prompt was processed once; every later prompt begins with these ids.

    It begins the stream of ids that `TurnStarted` points into. `text` is `content` as the chat
    template wrote it, `sha256` is `ids_sha256(ids)`, `chunks` are the lengths of the
    forwards: none where the model's cache cannot be reused, and each turn computes it again, or
    where it was cached already. `source` says where: in `memory`, or on `disk`; it is empty where
    all of it was computed. `disk_reason` is why a copy on disk was not used.
    """

    version: ClassVar[int] = 1
    content: str
    text: str
    ids: tuple[int, ...]
    sha256: str
    chunks: tuple[int, ...]
    duration_us: int
    kv_bytes: int
    source: str = ""
    disk_reason: str = ""

    def __post_init__(self) -> None:
        check_token_ids(ids=self.ids)
        check_counts(kv_bytes=self.kv_bytes)
        check_microseconds(self.duration_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAdded:
    """A message was put before the model.

    `ids` are those that the model will really see and `text` is what they spell, with what the
    template wrote around the content; they extend the stream. Both are empty where the template
    wrote the history anew: then `TurnStarted` carries the ids from the first change on. `turn` is
    the turn under way where the model called a tool in it; other messages begin the coming turn.
    """

    version: ClassVar[int] = 1
    role: str
    content: str
    text: str
    ids: tuple[int, ...]
    tool_call_id: str | None = None
    turn: int | None = None

    def __post_init__(self) -> None:
        check_token_ids(ids=self.ids)
        check_counts(turn=self.turn)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPruned:
    """Part of the history was taken out, so that the coming turn fits into the context.

    The ranges are half-open, of the ids and of the text of the stream as it was; what is left
    closes up, and the messages of the turn come behind it. `removed_messages` are the places of
    what was taken out among the conversation's messages, the system prompt's being the first.
    Where the template writes the history anew for each turn, or the stream held something else,
    the ranges are all that the new prompt does not begin with.
    """

    version: ClassVar[int] = 1
    turn: int
    policy: str
    reason: str
    removed_tokens: tuple[tuple[int, int], ...]
    removed_chars: tuple[tuple[int, int], ...]
    removed_messages: tuple[int, ...]
    tokens_before: int
    tokens_after: int

    def __post_init__(self) -> None:
        check(self.turn >= 1, f"turns count from one: {self.turn}")
        check(self.policy in PRUNING_POLICIES, f"no such policy: {self.policy!r}")
        check_ranges(removed_tokens=self.removed_tokens, removed_chars=self.removed_chars)
        check(bool(self.removed_messages), "a pruning takes out at least one message")
        check_counts(removed_messages=min(self.removed_messages))
        removed = sum(end - start for start, end in self.removed_tokens)
        check(
            self.tokens_after == self.tokens_before - removed,
            f"tokens_after {self.tokens_after} must be tokens_before {self.tokens_before} "
            f"less {removed} removed",
        )
        check(
            not self.removed_tokens or self.removed_tokens[-1][1] <= self.tokens_before,
            f"removed_tokens {self.removed_tokens} are not among {self.tokens_before}",
        )
