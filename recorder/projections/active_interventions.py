"""Where in a stream of ids interventions act."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tokentape.recorder.envelope import Envelope
from tokentape.recorder.events import (
    InterventionApplied,
    InterventionRemoved,
    InterventionRequested,
    InterventionWithdrawn,
    TokenSampled,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRange:
    """An intervention as it was applied, and a half-open range of positions that it acts on.

    `end` is None while it goes on with whatever is added. `tensor_start` is the position that the
    first row of a patch belongs to: it moves where ids before it are taken out, perhaps to below
    zero.
    """

    applied: InterventionApplied
    start: int
    end: int | None
    tensor_start: int | None

    @property
    def name(self) -> str:
        return self.applied.name

    def holds(self, position: int) -> bool:
        return self.start <= position and (self.end is None or position < self.end)

    def within(self, start: int, end: int) -> tuple[int, int] | None:
        """The part of it that lies in a half-open range; None where there is none."""
        first = max(self.start, start)
        last = end if self.end is None else min(self.end, end)
        return (first, last) if first < last else None


@dataclass(frozen=True, slots=True)
class ActiveInterventions:
    """Every range of a stream in which something acts, in the order in which it was applied.

    What acts on one position acts in this order. Nothing here changes: what is done to the stream
    gives another one.
    """

    ranges: tuple[ActiveRange, ...] = ()

    def applied(self, event: InterventionApplied) -> "ActiveInterventions":
        """From its position on it acts, in place of one of its name."""
        begun = ActiveRange(
            applied=event, start=event.position, end=None, tensor_start=event.tensor_start
        )
        return ActiveInterventions((*self._ended(event.name, event.position), begun))

    def removed(self, event: InterventionRemoved) -> "ActiveInterventions":
        return ActiveInterventions(self._ended(event.name, event.position))

    def rewritten(self, kept_tokens: int) -> "ActiveInterventions":
        """The stream keeps so many ids, and others may come behind these."""
        if not self.ranges:
            return self
        return ActiveInterventions(tuple(_clipped(self.ranges, kept_tokens)))

    def restarted(self, tokens: int) -> "ActiveInterventions":
        """Another stream begins with so many ids, on which nothing acts."""
        going_on = (each for each in self.ranges if each.end is None)
        return ActiveInterventions(tuple(replace(each, start=tokens) for each in going_on))

    def pruned(self, removed_tokens: Sequence[tuple[int, int]]) -> "ActiveInterventions":
        """Ranges of ids are taken out, and what is behind them moves up."""
        if not self.ranges or not removed_tokens:
            return self
        moved = (part for each in self.ranges for part in _moved(each, removed_tokens))
        return ActiveInterventions(tuple(moved))

    def over(self, tokens: int) -> tuple[ActiveRange, ...]:
        """What acts on the first so many positions, each range with an end."""
        parts = ((each, each.within(0, tokens)) for each in self.ranges)
        return tuple(
            replace(each, start=part[0], end=part[1]) for each, part in parts if part is not None
        )

    def within(self, name: str, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of a half-open range on which the one of that name acts, joined."""
        parts = (each.within(start, end) for each in self.ranges if each.name == name)
        joined: list[tuple[int, int]] = []
        for first, last in sorted(part for part in parts if part is not None):
            if joined and joined[-1][1] == first:
                joined[-1] = (joined[-1][0], last)
            else:
                joined.append((first, last))
        return joined

    def _ended(self, name: str, position: int) -> tuple[ActiveRange, ...]:
        ended = []
        for each in self.ranges:
            if each.name == name and (each.end is None or each.end > position):
                if each.start < position:
                    ended.append(replace(each, end=position))
            else:
                ended.append(each)
        return tuple(ended)


@dataclass(frozen=True, slots=True)
class RequestedInterventions:
    """The interventions that are asked for, each as it was requested last, in the first's order.

    `from_start` are the names whose request or withdrawal is about all of the coming prompt.
    """

    requests: tuple[InterventionRequested, ...] = ()
    from_start: frozenset[str] = frozenset()

    @classmethod
    def of(cls, envelopes: Iterable[Envelope]) -> "RequestedInterventions":
        """What is asked for behind these events of a run."""
        requests: dict[str, InterventionRequested] = {}
        from_start: set[str] = set()
        for each in envelopes:
            event = each.event
            if isinstance(event, TokenSampled):
                from_start = set()
            elif isinstance(event, InterventionRequested | InterventionWithdrawn):
                from_start.discard(event.name)
                if event.clear_cache:
                    from_start.add(event.name)
                if isinstance(event, InterventionRequested):
                    requests[event.name] = event
                else:
                    requests.pop(event.name, None)
        return cls(tuple(requests.values()), frozenset(from_start))


def acting_by_part(
    ranges: Sequence[ActiveRange], tokens: int
) -> Iterator[tuple[int, int, tuple[ActiveRange, ...]]]:
    """The first so many positions in parts, half-open, and the ranges that all of a part is in."""
    edges = {0, tokens}
    for each in ranges:
        edges |= {edge for edge in (each.start, each.end) if edge is not None and edge < tokens}
    for start, end in pairwise(sorted(edges)):
        yield start, end, tuple(each for each in ranges if each.holds(start))


def _clipped(ranges: Sequence[ActiveRange], kept_tokens: int) -> Iterator[ActiveRange]:
    for each in ranges:
        if each.end is None:
            yield replace(each, start=min(each.start, kept_tokens))
        elif each.start < kept_tokens:
            yield replace(each, end=min(each.end, kept_tokens))


def _moved(range_: ActiveRange, removed_tokens: Sequence[tuple[int, int]]) -> Iterator[ActiveRange]:
    """What is left of a range, in parts where ids in the middle of it go.

    The parts of a patch are not one: its rows do not follow each other any more.
    """
    gone, begun = 0, 0
    for start, end in removed_tokens:
        part = range_.within(begun, start)
        if part is not None:
            yield _shifted(range_, part[0], part[1], gone)
        gone, begun = gone + end - start, end
    if range_.end is None:
        yield _shifted(range_, max(range_.start, begun), None, gone)
    elif range_.end > begun:
        yield _shifted(range_, max(range_.start, begun), range_.end, gone)


def _shifted(range_: ActiveRange, start: int, end: int | None, tokens: int) -> ActiveRange:
    first_row = range_.tensor_start
    return replace(
        range_,
        start=start - tokens,
        end=None if end is None else end - tokens,
        tensor_start=None if first_row is None else first_row - tokens,
    )
