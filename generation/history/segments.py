"""Segments: the units of a conversation that pruning can remove."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokentape.generation.history.messages import NewMessage
from tokentape.generation.history.suffix import EncodedSuffix, EncodedText


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A contiguous part of a conversation: a message, or a reply with its opening and closing.

    It holds several messages if the template's text cannot be separated into messages.
    """

    role: str
    """Role of the first message, or `history` for a conversation that was rendered at once."""
    turn: int
    """Number of the turn, from 1; 0 for segments before the first turn."""
    messages: tuple[Mapping[str, Any], ...]
    ids: tuple[int, ...]
    escaped: str
    """The text with markers around the control tokens of users (`hf.control_tokens`)."""
    text: str
    stop_text: str | None = ""
    """Text of the token that ended the reply; None after the template's closing was appended."""
    is_result: bool = False
    """Whether the first message is a tool's result."""

    @classmethod
    def of(
        cls,
        role: str,
        turn: int,
        encoded: EncodedText,
        *messages: Mapping[str, Any],
        is_result: bool = False,
    ) -> "Segment":
        """Return a segment with this text and these messages."""
        return cls(
            role=role,
            turn=turn,
            messages=messages,
            ids=encoded.ids,
            escaped=encoded.escaped,
            text=encoded.text,
            is_result=is_result,
        )

    def with_closing(self, closing: EncodedText) -> "Segment":
        """Return a copy with the text that the template appends to a reply."""
        return replace(
            self,
            ids=(*self.ids, *closing.ids),
            escaped=self.escaped + closing.escaped,
            text=self.text + closing.text,
            stop_text=None,
        )

    def with_reply(
        self, ids: Sequence[int], text: str, stop_text: str, message: Mapping[str, Any]
    ) -> "Segment":
        """Return a copy with a sampled reply, whose control tokens are not escaped."""
        return replace(
            self,
            messages=(*self.messages, message),
            ids=(*self.ids, *ids),
            escaped=self.escaped + text + stop_text,
            text=self.text + text + stop_text,
            stop_text=stop_text,
        )


def append_suffix(
    segments: Sequence[Segment],
    new: Sequence[NewMessage],
    suffix: EncodedSuffix,
) -> tuple[Segment, ...]:
    """Return the segments with the last reply closed, the new messages, and the opened reply.

    The new segments get the number of the previous turn if no token boundary separates them.
    """
    *before, last = segments or (None,)
    replied = last is not None and _holds_reply(last)
    joined = replied and suffix.closing is None
    turn = (last.turn if last else 0) + (not joined)
    if last is not None:
        before.append(last.with_closing(suffix.closing) if suffix.closing else last)
    if suffix.messages:
        before += [
            Segment.of(message.role, turn, text, message.to_message(), is_result=message.is_result)
            for message, text in zip(new, suffix.messages, strict=True)
        ]
        new = ()
    opening = Segment.of(
        new[0].role if new else "assistant",
        turn,
        suffix.opening,
        *(message.to_message() for message in new),
        is_result=bool(new) and new[0].is_result,
    )
    return (*before, opening)


def with_messages_only(
    segments: Sequence[Segment], new: Sequence[NewMessage]
) -> tuple[Segment, ...]:
    """Return the segments and those of new messages, for a history that is rendered each turn.

    The new segments have no ids and no text.
    """
    no_text = EncodedText()
    suffix = EncodedSuffix(closing=no_text, messages=(no_text,) * len(new), opening=no_text)
    return append_suffix(segments, new, suffix)


def ids_of(segments: Sequence[Segment]) -> tuple[int, ...]:
    """Return the ids of all segments."""
    return tuple(token_id for segment in segments for token_id in segment.ids)


def _holds_reply(segment: Segment) -> bool:
    return any(message["role"] == "assistant" for message in segment.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRange:
    """The position of a segment in the stream."""

    role: str
    turn: int
    messages: int
    """Number of messages in the segment."""
    holds_reply: bool
    """Whether one of the messages is a reply."""
    is_result: bool
    """Whether the first message is a tool's result."""
    tokens: tuple[int, int]
    """Half-open range in the ids of the stream."""
    chars: tuple[int, int]
    """Half-open range in the text of the stream."""


def ranges_of(
    segments: Sequence[Segment], ends: Iterable[tuple[int, int]]
) -> tuple[SegmentRange, ...]:
    """Return the ranges of the segments, given the token and character at which each ends."""
    ranges = []
    token = char = 0
    for segment, (token_end, char_end) in zip(segments, ends, strict=True):
        ranges.append(
            SegmentRange(
                role=segment.role,
                turn=segment.turn,
                messages=len(segment.messages),
                holds_reply=_holds_reply(segment),
                is_result=segment.is_result,
                tokens=(token, token_end),
                chars=(char, char_end),
            )
        )
        token, char = token_end, char_end
    return tuple(ranges)
