"""A conversation in pieces that can be taken out of it whole."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from generation.continuation import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a conversation: a message, a reply with what opens and closes it, or more.

    `role` is that of the first of its `messages`, and `history` for what the template wrote in one
    piece. Turns count from one; 0 is what comes before the first. `marked` is the text with the
    control tokens of the users' marked, `stop_text` what spells the token that ended a reply.
    """

    role: str
    turn: int
    messages: tuple[Mapping[str, Any], ...]
    ids: tuple[int, ...]
    marked: str
    text: str
    stop_text: str = ""

    @classmethod
    def of(cls, role: str, turn: int, part: Part, *messages: Mapping[str, Any]) -> "Segment":
        return cls(
            role=role,
            turn=turn,
            messages=messages,
            ids=part.ids,
            marked=part.marked,
            text=part.text,
        )

    def closed(self, closing: Part) -> "Segment":
        """With what the template writes behind a reply."""
        return replace(
            self,
            ids=(*self.ids, *closing.ids),
            marked=self.marked + closing.marked,
            text=self.text + closing.text,
        )

    def answered(
        self, ids: Sequence[int], text: str, stop_text: str, message: Mapping[str, Any]
    ) -> "Segment":
        """With the reply that was sampled. It is not marked: its control tokens are such."""
        return replace(
            self,
            messages=(*self.messages, message),
            ids=(*self.ids, *ids),
            marked=self.marked + text + stop_text,
            text=self.text + text + stop_text,
            stop_text=stop_text,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where a segment lies: half-open ranges of the stream's ids and of its text."""

    role: str
    turn: int
    messages: int
    tokens: tuple[int, int]
    chars: tuple[int, int]


def spans_of(segments: Sequence[Segment]) -> Iterator[Span]:
    """The spans of segments that lie one behind the other."""
    token = char = 0
    for segment in segments:
        token_end, char_end = token + len(segment.ids), char + len(segment.text)
        yield Span(
            role=segment.role,
            turn=segment.turn,
            messages=len(segment.messages),
            tokens=(token, token_end),
            chars=(char, char_end),
        )
        token, char = token_end, char_end
