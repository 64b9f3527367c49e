"""What follows a history: as texts that a template wrote, and as ids in their place."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from tokentape.generation.hf.control_tokens import encode, unescape

# Enough text before a new part for its first token to come out as it would in its place.
_ANCHOR_CHARS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """The texts that follow a history, control tokens of the users' marked.

    `closing` ends the reply before; it is None where it cannot be told from what follows.
    `messages` has a text for each new message, or none where they cannot be told apart: then
    `opening`, which begins the new reply, holds them, too.
    """

    closing: str | None
    messages: tuple[str, ...]
    opening: str

    def partitions(self) -> Iterator["Continuation"]:
        """The same text in fewer and fewer parts, for tokens that reach across two of them."""
        yield self
        closing = self.closing or ""
        if self.messages and closing:
            first, *others = self.messages
            joined = (closing + first, *others)
            yield Continuation(closing=None, messages=joined, opening=self.opening)
        lump = "".join(self.messages) + self.opening
        yield Continuation(closing=self.closing, messages=(), opening=lump)
        yield Continuation(closing=None, messages=(), opening=closing + lump)


@dataclass(frozen=True, slots=True)
class Part:
    """A marked text and its ids."""

    escaped: str = ""
    ids: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        return unescape(self.escaped)

    def __add__(self, other: "Part") -> "Part":
        return Part(self.escaped + other.escaped, (*self.ids, *other.ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedContinuation:
    """A continuation of which each part has ids of its own."""

    closing: Part | None
    messages: tuple[Part, ...]
    opening: Part

    @property
    def added(self) -> tuple[Part, ...]:
        """For each new message, if they can be told apart, what it adds to the stream."""
        if not self.messages:
            return ()
        first, *others = self.messages
        return ((self.closing or Part()) + first, *others)

    @property
    def turn_opening(self) -> Part:
        """What the turn adds behind `added`."""
        return self.opening if self.messages else (self.closing or Part()) + self.opening


def encode_continuation(
    tokenizer: PreTrainedTokenizerBase, written: str, continuation: Continuation
) -> EncodedContinuation | None:
    """The ids of each part in its place behind the marked text that is `written`.

    Parts that share a token become one; None where a token reaches into what is written.
    """
    for parts in continuation.partitions():
        texts = [parts.closing or "", *parts.messages, parts.opening]
        ids = _encode_parts(tokenizer, written[-_ANCHOR_CHARS:], texts)
        if ids is not None:
            closing, *messages, opening = map(Part, texts, ids)
            return EncodedContinuation(
                closing=None if parts.closing is None else closing,
                messages=tuple(messages),
                opening=opening,
            )
    return None


def _encode_parts(
    tokenizer: PreTrainedTokenizerBase, anchor: str, parts: list[str]
) -> list[tuple[int, ...]] | None:
    """The ids of each part in its place; None where a token reaches across two of them."""
    text = anchor
    whole = encode(tokenizer, anchor + "".join(parts))
    ends = []
    for part in ("", *parts):
        text += part
        ids = encode(tokenizer, text)
        if ids != whole[: len(ids)]:
            return None
        ends.append(len(ids))
    return [whole[start:end] for start, end in pairwise(ends)]
