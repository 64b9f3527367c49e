"""The suffix that a chat template appends to a history, as texts and as ids."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from tokentape.generation.hf.control_tokens import encode, unescape

# Context before a text that is encoded, long enough that its first token comes out the same.
_CONTEXT_CHARS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Suffix:
    """The texts that a template appends to a history, with the users' control tokens escaped."""

    closing: str | None
    """Text that ends the previous reply; None if it cannot be separated from what follows."""
    messages: tuple[str, ...]
    """One text per new message; empty if they cannot be separated."""
    opening: str
    """Text that begins the new reply, and the new messages if they cannot be separated."""

    def partitions(self) -> Iterator["Suffix"]:
        """Yield the same text in fewer and fewer pieces, for tokens that span two of them."""
        yield self
        closing = self.closing or ""
        if self.messages and closing:
            first, *others = self.messages
            joined = (closing + first, *others)
            yield Suffix(closing=None, messages=joined, opening=self.opening)
        merged = "".join(self.messages) + self.opening
        yield Suffix(closing=self.closing, messages=(), opening=merged)
        yield Suffix(closing=None, messages=(), opening=closing + merged)


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text and its ids."""

    escaped: str = ""
    """The text with markers around the control tokens of users (`hf.control_tokens`)."""
    ids: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The text without markers."""
        return unescape(self.escaped)

    def __add__(self, other: "EncodedText") -> "EncodedText":
        return EncodedText(self.escaped + other.escaped, (*self.ids, *other.ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSuffix:
    """A `Suffix` whose texts are encoded separately."""

    closing: EncodedText | None
    messages: tuple[EncodedText, ...]
    opening: EncodedText

    @property
    def added(self) -> tuple[EncodedText, ...]:
        """The text that each new message adds to the stream; empty if they cannot be separated."""
        if not self.messages:
            return ()
        first, *others = self.messages
        return ((self.closing or EncodedText()) + first, *others)

    @property
    def turn_opening(self) -> EncodedText:
        """The text that the turn adds after `added`."""
        return self.opening if self.messages else (self.closing or EncodedText()) + self.opening


def encode_suffix(
    tokenizer: PreTrainedTokenizerBase, history: str, suffix: Suffix
) -> EncodedSuffix | None:
    """Return the ids of a suffix, encoded in the context of the escaped text of the history.

    Texts that share a token are merged. Return None if a token spans the end of the history.
    """
    for pieces in suffix.partitions():
        texts = [pieces.closing or "", *pieces.messages, pieces.opening]
        ids = _encode_texts(tokenizer, history[-_CONTEXT_CHARS:], texts)
        if ids is not None:
            closing, *messages, opening = map(EncodedText, texts, ids)
            return EncodedSuffix(
                closing=None if pieces.closing is None else closing,
                messages=tuple(messages),
                opening=opening,
            )
    return None


def _encode_texts(
    tokenizer: PreTrainedTokenizerBase, context: str, texts: list[str]
) -> list[tuple[int, ...]] | None:
    """Return the ids of each text after the context; None if a token spans two of them."""
    text = context
    complete = encode(tokenizer, context + "".join(texts))
    ends = []
    for appended in ("", *texts):
        text += appended
        ids = encode(tokenizer, text)
        if ids != complete[: len(ids)]:
            return None
        ends.append(len(ids))
    return [complete[start:end] for start, end in pairwise(ends)]
