"""Pruning: which complete messages or turns to remove from a history that is too long."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from tokentape.generation.errors import PromptError
from tokentape.generation.history.segments import SegmentRange
from tokentape.recorder.events import HistoryPruned, PruningPolicy

Range = tuple[int, int]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """The segments and messages to remove, and why. Further fields as in `HistoryPruned`."""

    policy: PruningPolicy
    reason: str
    segments: frozenset[int]
    """Indices of the removed segments."""
    removed_messages: tuple[int, ...]
    removed_tokens: tuple[Range, ...]
    removed_chars: tuple[Range, ...]

    def pruned_event(self, turn: int, tokens_before: int) -> HistoryPruned:
        """Return the event for a stream of `tokens_before` tokens."""
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
    ranges: Sequence[SegmentRange], *, policy: str, excess_tokens: int, keep_question: bool = False
) -> Pruning | None:
    """Return a pruning of the oldest history that frees `excess_tokens`; None if not possible.

    `tool_results` removes results of tools, in any role. `turns` removes everything from one
    user's message to the next. The system prompt is never removed. With `keep_question`, the
    newest user's message is not either, because the coming turn answers it.
    Raise PromptError for another policy.
    """
    try:
        policy = PruningPolicy(policy)
    except ValueError:
        known = " or ".join(repr(str(each)) for each in PruningPolicy)
        raise PromptError(f"the pruning policy must be {known}, not {policy!r}") from None
    freed, chosen = 0, []
    if policy is PruningPolicy.TOOL_RESULTS:
        units = list(_tool_results(ranges))
    else:
        units = list(_exchanges(ranges))[: -1 if keep_question else None]
    for count, unit in enumerate(units, start=1):
        chosen += unit
        freed += sum(_length(ranges[index].tokens) for index in unit)
        if freed >= excess_tokens:
            noun = "tool results" if policy is PruningPolicy.TOOL_RESULTS else "turns"
            return _pruning(
                ranges,
                chosen,
                policy,
                f"{excess_tokens} tokens too many: removed the oldest {count} {noun} of {freed}",
            )
    return None


def remove_ranges(stream: Sequence[Item], ranges: Iterable[Range]) -> tuple[Item, ...]:
    """Return the stream without the ranges, which must be ascending and disjoint."""
    remaining: tuple[Item, ...] = ()
    position = 0
    for start, end in (*ranges, (len(stream), len(stream))):
        remaining += tuple(stream[position:start])
        position = end
    return remaining


def _tool_results(ranges: Sequence[SegmentRange]) -> Iterator[list[int]]:
    """Yield the indices of each tool's result."""
    for index, segment in enumerate(ranges):
        before = ranges[index - 1] if index else None
        # Without a token boundary before it, the result also holds the end of the reply.
        joined = before is not None and before.turn == segment.turn and before.holds_reply
        if segment.is_result and not segment.holds_reply and not joined:
            yield [index]


def _exchanges(ranges: Sequence[SegmentRange]) -> Iterator[list[int]]:
    """Yield the indices from one user's message to the next, without the system prompt."""
    exchanges: list[list[int]] = []
    for index, segment in enumerate(ranges):
        asks = segment.role == "user" and not segment.is_result
        if asks and (index == 0 or ranges[index - 1].turn != segment.turn):
            exchanges.append([index])
        elif exchanges:
            exchanges[-1].append(index)
    # Without a segment of its own, the system prompt is in the first message.
    has_system_segment = (
        bool(ranges) and ranges[0].role in ("system", "history") and ranges[0].tokens[1] > 0
    )
    yield from exchanges[0 if has_system_segment else 1 :]


def _pruning(
    ranges: Sequence[SegmentRange], chosen: Sequence[int], policy: PruningPolicy, reason: str
) -> Pruning:
    starts = [0, *accumulate(segment.messages for segment in ranges)]
    return Pruning(
        policy=policy,
        reason=reason,
        segments=frozenset(chosen),
        removed_messages=tuple(
            message for index in chosen for message in range(starts[index], starts[index + 1])
        ),
        removed_tokens=_joined(ranges[index].tokens for index in chosen),
        removed_chars=_joined(ranges[index].chars for index in chosen),
    )


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Return the ascending ranges with adjacent ones merged and empty ones removed."""
    joined: list[Range] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        elif end > start:
            joined.append((start, end))
    return tuple(joined)


def _length(tokens: Range) -> int:
    return tokens[1] - tokens[0]
