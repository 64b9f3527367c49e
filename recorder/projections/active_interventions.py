"""Which interventions act on which positions of a stream of ids."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from tokentape.recorder.envelope import Envelope
from tokentape.recorder.events import (
    HistoryPruned,
    InterventionApplied,
    InterventionRemoved,
    InterventionRequested,
    InterventionWithdrawn,
    RunResumed,
    SystemPromptCached,
    TokenSampled,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.events.traits import EventBase


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRange:
    """An applied intervention and a half-open range of positions that it acts on."""

    applied: InterventionApplied
    start: int
    end: int | None
    """None while it also acts on all ids that are added."""
    tensor_start: int | None
    """The position of the first row of a patch. It decreases, even below zero, when ids before it
    are removed."""

    @property
    def name(self) -> str:
        """The name of the intervention."""
        return self.applied.name

    def holds(self, position: int) -> bool:
        """Return whether the range has the position."""
        return self.start <= position and (self.end is None or position < self.end)

    def within(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the overlap with a half-open range, or None if they do not overlap."""
        first = max(self.start, start)
        last = end if self.end is None else min(self.end, end)
        return (first, last) if first < last else None


@dataclass(frozen=True, slots=True)
class ActiveInterventions:
    """The ranges of all interventions on a stream, in the order in which they were applied.

    Interventions on the same position act in this order. The object is immutable: every method
    that changes the stream returns a new one.
    """

    ranges: tuple[ActiveRange, ...] = ()

    def applied(self, event: InterventionApplied) -> "ActiveInterventions":
        """Return the ranges after an application, which ends one of the same name."""
        begun = ActiveRange(
            applied=event, start=event.position, end=None, tensor_start=event.tensor_start
        )
        return ActiveInterventions((*self._ended(event.name, event.position), begun))

    def removed(self, event: InterventionRemoved) -> "ActiveInterventions":
        """Return the ranges after a removal."""
        return ActiveInterventions(self._ended(event.name, event.position))

    def rewritten(self, kept_tokens: int) -> "ActiveInterventions":
        """Return the ranges after the stream was cut to so many ids, before others are added."""
        if not self.ranges:
            return self
        return ActiveInterventions(tuple(_clipped(self.ranges, kept_tokens)))

    def restarted(self, tokens: int) -> "ActiveInterventions":
        """Return the ranges on a new stream of so many ids, on which nothing acts yet."""
        unended = (each for each in self.ranges if each.end is None)
        return ActiveInterventions(tuple(replace(each, start=tokens) for each in unended))

    def pruned(self, removed_tokens: Sequence[tuple[int, int]]) -> "ActiveInterventions":
        """Return the ranges after ranges of ids were removed and the ids after them moved up."""
        if not self.ranges or not removed_tokens:
            return self
        moved = (part for each in self.ranges for part in _moved(each, removed_tokens))
        return ActiveInterventions(tuple(moved))

    def over(self, tokens: int) -> tuple[ActiveRange, ...]:
        """Return the ranges within the first so many positions, each with an end."""
        parts = ((each, each.within(0, tokens)) for each in self.ranges)
        return tuple(
            replace(each, start=part[0], end=part[1]) for each, part in parts if part is not None
        )

    def within(self, name: str, start: int, end: int) -> list[tuple[int, int]]:
        """Return where in a half-open range the intervention of that name acts, adjacent ranges
        joined."""
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


class InterventionTracker:
    """Follows the interventions on the stream of a run without its ids.

    `active` holds them after the events that were added, in order: those of `KINDS` are needed.
    """

    KINDS: ClassVar[tuple[type[EventBase], ...]] = (
        SystemPromptCached,
        HistoryPruned,
        TurnStarted,
        TurnFinished,
        RunResumed,
        InterventionApplied,
        InterventionRemoved,
    )

    def __init__(self) -> None:
        self.active = ActiveInterventions()
        self._committed = self.active
        self._open: TurnStarted | None = None
        """The beginning of the open round; None between rounds."""

    def add(self, event: object) -> None:
        """Account for the next event; those that do not concern interventions change nothing."""
        if isinstance(event, HistoryPruned):
            self.active = self.active.pruned(event.removed_tokens)
            return
        if isinstance(event, SystemPromptCached):
            self.active = self.active.restarted(len(event.ids))
        elif isinstance(event, TurnStarted):
            # A fork at a token continues the open round, whose tokens keep their interventions.
            if self._open is None or self._open.turn != event.turn:
                self.active = self.active.rewritten(event.kept_tokens)
            self._open = event
        elif isinstance(event, TurnFinished):
            self._open = None
        elif isinstance(event, InterventionApplied):
            self.active = self.active.applied(event)
        elif isinstance(event, InterventionRemoved):
            self.active = self.active.removed(event)
        elif isinstance(event, RunResumed):
            self.active = self._committed
            if event.turn is None and self._open is not None:
                # The reply that was cut off does not continue.
                self.active = self.active.rewritten(self._open.prompt_tokens)
                self._open = None
        self._committed = self.active


@dataclass(frozen=True, slots=True)
class RequestedInterventions:
    """The interventions that the user has requested and not withdrawn."""

    requests: tuple[InterventionRequested, ...] = ()
    """The last request of each name, in the order of the first."""
    from_start: frozenset[str] = frozenset()
    """Names whose last request or withdrawal affects all of the next prompt."""

    @classmethod
    def of(cls, envelopes: Iterable[Envelope]) -> "RequestedInterventions":
        """Return the interventions that are requested after these events of a run."""
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


def split_by_interventions(
    ranges: Sequence[ActiveRange], tokens: int
) -> Iterator[tuple[int, int, tuple[ActiveRange, ...]]]:
    """Split the first so many positions where a range starts or ends.

    Yield the start and end of each piece, half-open, and the ranges that it lies in.
    """
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
    """Yield the pieces of a range that remain when ids are removed, at their new positions.

    The pieces of a patch stay separate, because their rows do not follow each other any more.
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
    """Return the range with other bounds, moved up by so many tokens."""
    first_row = range_.tensor_start
    return replace(
        range_,
        start=start - tokens,
        end=None if end is None else end - tokens,
        tensor_start=None if first_row is None else first_row - tokens,
    )
