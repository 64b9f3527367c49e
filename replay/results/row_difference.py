"""A token whose numbers are not those of its recording, for the report of `retrace`."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberDifference:
    """A number of `TokenSampled` that a retrace computed differently."""

    name: str
    """The field of `TokenSampled`; of the top log-probabilities with an index."""
    recorded: float
    replayed: float | None
    """None where a processor now filters the token."""
    ulps: int | None
    """Units in the last place, of the precision in which the number is recorded; None like
    `replayed`."""

    @property
    def difference(self) -> float:
        """The absolute difference: nats, or logits for `top_gap`; infinite for a filtered token."""
        return math.inf if self.replayed is None else abs(self.recorded - self.replayed)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDifference:
    """A token whose replayed row of logits, or whose pick, differs from the recorded one."""

    turn: int
    step: int
    position: int
    token_id: int
    """The recorded token."""
    picked_id: int
    """The token that the sampler picks from the replayed row."""
    recorded_top_ids: tuple[int, ...]
    replayed_top_ids: tuple[int, ...]
    numbers: tuple[NumberDifference, ...]
    """The numbers that differ, those of the raw logits first."""

    @property
    def is_raw(self) -> bool:
        """Whether numbers of the raw logits differ, and not only those after the processors."""
        raw = any(each.name != "logprob_processed" for each in self.numbers)
        return raw or self.recorded_top_ids != self.replayed_top_ids

    @property
    def ulps_max(self) -> int:
        """The largest distance of its log-probabilities, in units in the last place of float32."""
        return max((each.ulps or 0 for each in self._logprobs), default=0)

    @property
    def nats_max(self) -> float:
        """The largest difference of its log-probabilities, in nats."""
        return max((each.difference for each in self._logprobs), default=0.0)

    @property
    def _logprobs(self) -> list[NumberDifference]:
        return [each for each in self.numbers if each.name in ("logprob", "logprob_processed")]
