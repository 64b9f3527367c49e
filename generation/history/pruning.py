"""What to take out of a history that has grown too long: whole messages or whole turns."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from tokentape.generation.errors import PromptError
from tokentape.generation.history.segments import Span
from tokentape.recorder.events import HistoryPruned
from tokentape.recorder.events.prompt import PRUNING_POLICIES

Range = tuple[int, int]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What goes, and why; `segments` and `removed_messages` are places in the conversation.

    The other fields are those of `HistoryPruned`.
    """

    policy: str
    reason: str
    segments: frozenset[int]
    removed_messages: tuple[int, ...]
    removed_tokens: tuple[Range, ...]
    removed_chars: tuple[Range, ...]

    def pruned_event(self, turn: int, tokens_before: int) -> HistoryPruned:
        removed = sum(end - start for start, end in self.removed_tokens)
        return HistoryPruned(
            turn=turn,
            policy=self.policy,
            reason=self.reason,
            removed_tokens=self.removed_tokens,
            removed_chars=self.removed_chars,
            removed_messages=self.removed_messages,
            tokens_before=tokens_before,
            tokens_after=tokens_before - removed,
        )


def plan_pruning(
    spans: Sequence[Span], *, policy: str, excess_tokens: int, keep_question: bool = False
) -> Pruning | None:
    """The oldest parts of the history that make up for the excess, or None where all do not.

    `tool_results` takes out what tools gave, in whatever role, `turns` everything from a user's
    message to the next. The system prompt stays, and with `keep_question` the newest user's
    message: what comes is about it. Raises PromptError for another policy.
    """
    if policy not in PRUNING_POLICIES:
        raise PromptError(f"a history is pruned by 'tool_results' or 'turns', not {policy!r}")
    freed, chosen = 0, []
    if policy == "tool_results":
        units = list(_tool_results(spans))
    else:
        units = list(_exchanges(spans))[: -1 if keep_question else None]
    for taken, unit in enumerate(units, start=1):
        chosen += unit
        freed += sum(_length(spans[index].tokens) for index in unit)
        if freed >= excess_tokens:
            noun = "tool results" if policy == "tool_results" else "turns"
            return _pruning(
                spans,
                chosen,
                policy,
                f"{excess_tokens} tokens had to go: the oldest {taken} {noun} held {freed}",
            )
    return None


def without(whole: Sequence[Item], ranges: Iterable[Range]) -> tuple[Item, ...]:
    """What is left of a stream when the ranges, ascending and disjoint, are taken out."""
    left: tuple[Item, ...] = ()
    at = 0
    for start, end in (*ranges, (len(whole), len(whole))):
        left += tuple(whole[at:start])
        at = end
    return left


def _tool_results(spans: Sequence[Span]) -> Iterator[list[int]]:
    for index, span in enumerate(spans):
        before = spans[index - 1] if index else None
        # A result that no token boundary parts from the reply before it closes that reply.
        joined = before is not None and before.turn == span.turn and before.holds_reply
        if span.is_result and not span.holds_reply and not joined:
            yield [index]


def _exchanges(spans: Sequence[Span]) -> Iterator[list[int]]:
    """From each user's message to the next, but for what holds the system prompt."""
    exchanges: list[list[int]] = []
    for index, span in enumerate(spans):
        asks = span.role == "user" and not span.is_result
        if asks and (index == 0 or spans[index - 1].turn != span.turn):
            exchanges.append([index])
        elif exchanges:
            exchanges[-1].append(index)
    # Without a part of its own the system prompt is in the first message.
    has_own_part = bool(spans) and spans[0].role in ("system", "history") and spans[0].tokens[1] > 0
    yield from exchanges[0 if has_own_part else 1 :]


def _pruning(spans: Sequence[Span], chosen: Sequence[int], policy: str, reason: str) -> Pruning:
    starts = [0, *accumulate(span.messages for span in spans)]
    return Pruning(
        policy=policy,
        reason=reason,
        segments=frozenset(chosen),
        removed_messages=tuple(
            place for index in chosen for place in range(starts[index], starts[index + 1])
        ),
        removed_tokens=_joined(spans[index].tokens for index in chosen),
        removed_chars=_joined(spans[index].chars for index in chosen),
    )


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same ranges, ascending, with neighbours made one and empty ones left out."""
    joined: list[Range] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        elif end > start:
            joined.append((start, end))
    return tuple(joined)


def _length(tokens: Range) -> int:
    return tokens[1] - tokens[0]
