"""A conversation in pieces that can be taken out of it whole."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokentape.generation.history.continuation import EncodedContinuation, Part
from tokentape.generation.history.messages import NewMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a conversation: a message, a reply with what opens and closes it, or more.

    `role` is that of the first of its `messages`, and `history` for what the template wrote in one
    piece; `is_result` says that the first is a tool's result. Turns count from one; 0 is what comes
    before the first. `marked` is the text with the control tokens of the users' marked. `stop_text`
    spells the token that ended a reply; it is None once the template closed it.
    """

    role: str
    turn: int
    messages: tuple[Mapping[str, Any], ...]
    ids: tuple[int, ...]
    escaped: str
    text: str
    stop_text: str | None = ""
    is_result: bool = False

    @classmethod
    def of(
        cls,
        role: str,
        turn: int,
        part: Part,
        *messages: Mapping[str, Any],
        is_result: bool = False,
    ) -> "Segment":
        return cls(
            role=role,
            turn=turn,
            messages=messages,
            ids=part.ids,
            escaped=part.escaped,
            text=part.text,
            is_result=is_result,
        )

    def closed(self, closing: Part) -> "Segment":
        """With what the template writes behind a reply."""
        return replace(
            self,
            ids=(*self.ids, *closing.ids),
            escaped=self.escaped + closing.escaped,
            text=self.text + closing.text,
            stop_text=None,
        )

    def answered(
        self, ids: Sequence[int], text: str, stop_text: str, message: Mapping[str, Any]
    ) -> "Segment":
        """With the reply that was sampled. It is not marked: its control tokens are such."""
        return replace(
            self,
            messages=(*self.messages, message),
            ids=(*self.ids, *ids),
            escaped=self.escaped + text + stop_text,
            text=self.text + text + stop_text,
            stop_text=stop_text,
        )


def continued(
    segments: Sequence[Segment],
    new: Sequence[NewMessage],
    following: EncodedContinuation,
) -> tuple[Segment, ...]:
    """The segments, the last reply closed, with those of the new messages and of the coming reply.

    A turn that no boundary of tokens parts from the one before has its number.
    """
    *before, last = segments or (None,)
    replied = last is not None and _holds_reply(last)
    joined = replied and following.closing is None
    turn = (last.turn if last else 0) + (not joined)
    if last is not None:
        before.append(last.closed(following.closing) if following.closing else last)
    if following.messages:
        before += [
            Segment.of(message.role, turn, part, message.templated(), is_result=message.is_result)
            for message, part in zip(new, following.messages, strict=True)
        ]
        new = ()
    opening = Segment.of(
        new[0].role if new else "assistant",
        turn,
        following.opening,
        *(message.templated() for message in new),
        is_result=bool(new) and new[0].is_result,
    )
    return (*before, opening)


def ids_of(segments: Sequence[Segment]) -> tuple[int, ...]:
    return tuple(token_id for segment in segments for token_id in segment.ids)


def _holds_reply(segment: Segment) -> bool:
    return any(message["role"] == "assistant" for message in segment.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where a segment lies: half-open ranges of the stream's ids and of its text.

    `messages` counts those in it; `holds_reply` says that one of them is a reply, `is_result` that
    the first is a tool's result.
    """

    role: str
    turn: int
    messages: int
    holds_reply: bool
    is_result: bool
    tokens: tuple[int, int]
    chars: tuple[int, int]


def spans_of(segments: Sequence[Segment], ends: Iterable[tuple[int, int]]) -> tuple[Span, ...]:
    """The spans of segments of which each ends at so many tokens and characters."""
    spans = []
    token = char = 0
    for segment, (token_end, char_end) in zip(segments, ends, strict=True):
        spans.append(
            Span(
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
    return tuple(spans)
