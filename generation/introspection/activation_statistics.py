"""Statistics of a layer's output over a span of positions, accumulated over forwards."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tokentape.generation.introspection.statistics import (
    HISTOGRAM_BINS,
    NEAR_ZERO,
    PERCENTILES,
    round_floats,
)
from tokentape.recorder.events import ActivationObserved

_BINS = 65_536
_TOP_CHANNELS = 5
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMeasurement:
    """Measures of one call of a layer. Its tensors are on the device of the layer."""

    layer: str
    turn: int
    source: str
    start: int
    end: int
    rows: int
    channels: int
    measures: torch.Tensor
    """Float64, shape (10,) if full, else (8,), in the order of `measure`."""
    bins: torch.Tensor | None
    """Counts of the numbers by their bfloat16 value, shape (65536,)."""
    channel_sums: torch.Tensor | None
    """Sums of magnitudes, shape (channels,)."""

    @property
    def is_aligned(self) -> bool:
        """Whether each position has a row."""
        return self.rows == self.end - self.start


def measure(rows: torch.Tensor, *, full: bool) -> tuple[torch.Tensor, ...]:
    """Return measures, and if `full` bins and channel sums, of rows, shape (positions, channels).

    The measures, computed in float32: number of finite values, number of values near zero, index of
    the largest magnitude, mean, variance, mean and maximum of the rows' norms, largest magnitude,
    and if `full` the third and fourth central moments. Nothing synchronizes with the device. Values
    that are not finite are counted as zeros here; `ActivationSpan` corrects for them.
    """
    values = rows.float()
    finite = torch.count_nonzero(torch.isfinite(values))
    values = values.nan_to_num(0.0, posinf=0.0, neginf=0.0)
    variance, mean = torch.var_mean(values, correction=0)
    norms = torch.linalg.vector_norm(values, dim=1)
    magnitudes = values.abs()
    highest, index = magnitudes.reshape(-1).max(dim=0)
    numbers = [mean, variance, norms.mean(), norms.max(), highest]
    counts = torch.stack([finite, torch.count_nonzero(magnitudes < NEAR_ZERO), index])
    if not full:
        return (torch.cat([counts.double(), torch.stack(numbers).double()]),)
    off_mean = values - mean
    squares = off_mean * off_mean
    numbers += [(squares * off_mean).mean(), (squares * squares).mean()]
    keys = values.reshape(-1).bfloat16().view(torch.int16).int()
    bins = (keys ^ ((keys >> 15) & 0x7FFF)).long() + _BINS // 2
    measures = torch.cat([counts.double(), torch.stack(numbers).double()])
    return measures, torch.bincount(bins, minlength=_BINS), magnitudes.sum(dim=0)


class ActivationSpan:
    """Accumulated statistics of one layer over consecutive positions of one turn."""

    def __init__(self, layer: str, turn: int, source: str, start: int) -> None:
        self.layer, self.turn, self.source, self.start, self.end = layer, turn, source, start, start
        self.positions_covered = 0
        self.is_full = True
        self._last_start = -1
        self._calls = self._calls_max = 0
        self._rows = 0
        self._count = self._not_finite = self._near_zeros = 0
        self._mean = 0.0
        # Sums of the second, third and fourth powers of the deviations from the mean.
        self._powers = (0.0, 0.0, 0.0)
        self._norms = self._norm_max = 0.0
        self._abs_max = -1.0
        self._abs_max_at: tuple[int | None, int] = (None, 0)
        self._bins = torch.zeros(0)
        self._channel_sums = torch.zeros(0)

    def continues_with(self, measurement: LayerMeasurement) -> bool:
        """Return whether a measurement is of the next positions, or of the last ones again."""
        same = (measurement.turn, measurement.source) == (self.turn, self.source)
        repeated = (measurement.start, measurement.end) == (self._last_start, self.end)
        return same and (measurement.start == self.end or repeated)

    def add(self, measurement: LayerMeasurement, measures: list[float]) -> None:
        """Add a measurement, with its `measures` transferred to the CPU."""
        if measurement.start == self._last_start:
            self._calls += 1
        else:
            self._calls = 1
            self._last_start, self.end = measurement.start, measurement.end
            self.positions_covered += min(measurement.rows, measurement.end - measurement.start)
        self._calls_max = max(self._calls_max, self._calls)
        finite, near_zeros, index, mean, variance, norm, norm_max, highest, *third = measures
        bad = measurement.rows * measurement.channels - int(finite)
        self._not_finite += bad
        self._near_zeros += int(near_zeros) - bad
        self._norms += norm * measurement.rows
        self._rows += measurement.rows
        self._norm_max = max(self._norm_max, norm_max)
        if highest > self._abs_max:
            row, channel = divmod(int(index), measurement.channels)
            self._abs_max = highest
            self._abs_max_at = (
                measurement.start + row if measurement.is_aligned else None,
                channel,
            )
        self._add_moments(measurement.rows * measurement.channels, bad, mean, variance, third)
        self._add_full(measurement)

    def _add_moments(
        self, count: int, bad: int, mean: float, variance: float, third: list[float]
    ) -> None:
        m3, m4 = (each * count for each in third) if third and not bad else (math.nan, math.nan)
        m2 = variance * count
        if bad:
            # Remove the values that are not finite, which were counted as zeros.
            squares, total = m2 + count * mean * mean, mean * count
            count -= bad
            mean = total / count if count else 0.0
            m2 = max(0.0, squares - count * mean * mean)
        if not count:
            return
        a2, a3, a4 = self._powers
        na, nb, n = self._count, count, self._count + count
        d = mean - self._mean
        # Pebay (2008), "Formulas for robust, one-pass parallel computation of covariances and
        # arbitrary-order statistical moments". Products, as a float power raises on overflow.
        self._powers = (
            a2 + m2 + d * d * na * nb / n,
            a3 + m3 + d * d * d * na * nb * (na - nb) / n**2 + 3 * d * (na * m2 - nb * a2) / n,
            a4
            + m4
            + d * d * d * d * na * nb * (na * na - na * nb + nb * nb) / n**3
            + 6 * d * d * (na * na * m2 + nb * nb * a2) / n**2
            + 4 * d * (na * m3 - nb * a3) / n,
        )
        self._mean += d * nb / n
        self._count = n

    def _add_full(self, measurement: LayerMeasurement) -> None:
        if measurement.bins is None or measurement.channel_sums is None:
            self.is_full = False
        elif self._bins.numel():
            self._bins = self._bins + measurement.bins
            self._channel_sums = self._channel_sums + measurement.channel_sums
        else:
            self._bins, self._channel_sums = measurement.bins, measurement.channel_sums

    def statistics(self, *, full: bool) -> dict[str, Any]:
        """Return the statistics by name, to six digits; None for an undefined or infinite one."""
        some, m2 = self._count > 0, self._powers[0]
        found: dict[str, Any] = {
            "mean": self._mean if some else None,
            "std": math.sqrt(m2 / max(1, self._count - 1)) if some else None,
            "l2_norm_mean": self._norms / self._rows,
            "l2_norm_max": self._norm_max,
            "abs_max": self._abs_max,
            "abs_max_position": self._abs_max_at[0],
            "abs_max_channel": self._abs_max_at[1],
            "near_zero_percentage": 100.0 * self._near_zeros / self._count if some else None,
        }
        if self._not_finite:
            found["not_finite"] = self._not_finite
        if self._calls_max > 1:
            found["calls_per_forward"] = self._calls_max
        if full and self.is_full and some:
            found |= self._full_statistics()
        return {name: _json_number(round_floats(value, _DIGITS)) for name, value in found.items()}

    def _full_statistics(self) -> dict[str, Any]:
        m2, m4 = self._powers[0], self._powers[2]
        counts = self._bins.cpu().clone()
        counts[_BINS // 2] -= self._not_finite
        values = _values_of_bins()
        there = counts.nonzero()[:, 0]
        counts, values = counts[there], values[there]
        means = self._channel_sums.double().cpu() / self._rows
        top = means.topk(min(_TOP_CHANNELS, means.numel()))
        return {
            # 3 for a normal distribution.
            "kurtosis": self._count * m4 / (m2 * m2) if m2 > 0 else None,
            "percentiles": _percentiles(counts, values),
            "top_channels": [
                {"channel": channel, "abs_mean": mean}
                for channel, mean in zip(top.indices.tolist(), top.values.tolist(), strict=True)
            ],
            "histogram": _histogram(counts, values),
        }


def observation_events(spans: Iterable[ActivationSpan], *, full: bool) -> list[ActivationObserved]:
    """Return an event for each set of spans over the same positions, usually a single event."""
    groups: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for span in spans:
        key = (span.turn, span.source, span.start, span.end, span.positions_covered)
        groups.setdefault(key, {})[span.layer] = span.statistics(full=full)
    return [
        ActivationObserved(
            turn=turn,
            source=source,
            start=start,
            end=end,
            positions_covered=covered,
            statistics=statistics,
        )
        for (turn, source, start, end, covered), statistics in groups.items()
    ]


def _percentiles(counts: torch.Tensor, values: torch.Tensor) -> dict[str, float]:
    """Return percentiles of values rounded to bfloat16, so within 0.4 %."""
    below = counts.cumsum(0)
    last = int(below[-1]) - 1
    ranks = torch.tensor([round(last * percent / 100) for percent in PERCENTILES])
    found = values[torch.searchsorted(below, ranks, right=True)]
    return dict(zip(map(str, PERCENTILES), found.tolist(), strict=True))


def _histogram(counts: torch.Tensor, values: torch.Tensor) -> dict[str, Any]:
    lowest, highest = float(values[0]), float(values[-1])
    wider = 0.5 if lowest == highest else 0.0
    edges = torch.linspace(lowest - wider, highest + wider, HISTOGRAM_BINS + 1, dtype=torch.float64)
    places = torch.bucketize(values.double(), edges[1:-1], right=True)
    summed = torch.zeros(HISTOGRAM_BINS, dtype=torch.int64).index_add_(0, places, counts)
    return {"bins": HISTOGRAM_BINS, "counts": summed.tolist(), "edges": edges.tolist()}


def _values_of_bins() -> torch.Tensor:
    keys = torch.arange(-_BINS // 2, _BINS // 2, dtype=torch.int32)
    bits = (keys ^ ((keys >> 15) & 0x7FFF)).to(torch.int16)
    # The largest float32 values round to infinity in bfloat16.
    most = torch.finfo(torch.bfloat16).max
    return bits.view(torch.bfloat16).float().clamp(-most, most)


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
