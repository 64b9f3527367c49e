"""A token whose numbers are not those of its recording, for the report of `retrace`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberDifference:
    """A number of `TokenSampled` that a retrace computed differently."""

    name: str
    """The field of `TokenSampled`; of the top log-probabilities with an index."""
    recorded: float
    replayed: float
    ulps: int
    """Units in the last place, of the precision in which the number is recorded."""

    @property
    def difference(self) -> float:
        """The absolute difference: nats, or logits for `top_gap`."""
        return abs(self.recorded - self.replayed)


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
        return max(
            (each.ulps for each in self.numbers if each.name.startswith("logprob")), default=0
        )

    @property
    def nats_max(self) -> float:
        """The largest difference of its log-probabilities, in nats."""
        return max(
            (each.difference for each in self.numbers if each.name.startswith("logprob")),
            default=0.0,
        )
