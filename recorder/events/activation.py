"""The event of observed activations."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from tokentape.recorder.events.checks import check, check_counts, choose
from tokentape.recorder.events.fields import Redact
from tokentape.recorder.events.traits import EventBase


class ActivationSource(StrEnum):
    """Which forward computed the activations."""

    PREFILL = "prefill"
    """A forward of the prompt."""
    DECODE = "decode"
    """The forward of one sampled token."""
    RECOMPUTED = "recomputed"
    """An extra forward over tokens that were processed before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationObserved(EventBase):
    """Statistics of the outputs of some layers over the positions from `start` to `end`.

    The range is half-open.
    """

    version: ClassVar[int] = 1

    turn: int
    source: ActivationSource
    start: int
    end: int
    positions_covered: int
    """Positions of the range that were computed; the rest came from the cache."""
    statistics: Annotated[Mapping[str, Mapping[str, Any]], Redact.NOTHING]
    """Numbers by the name of the layer and the name of the statistic."""

    def __post_init__(self) -> None:
        choose(self, source=ActivationSource)
        check_counts(turn=self.turn, start=self.start, positions_covered=self.positions_covered)
        check(
            self.positions_covered <= self.end - self.start,
            f"positions_covered {self.positions_covered} must be within {self.start} to {self.end}",
        )
