"""Statistics of what a layer gave over a stretch of the sequence, put together from forwards."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tokentape.generation.introspection.rounding import rounded
from tokentape.generation.introspection.statistics import HISTOGRAM_BINS, NEAR_ZERO, PERCENTILES
from tokentape.recorder.events import ActivationObserved

_BINS = 65_536
_TOP_CHANNELS = 5
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one call of a layer gave: measures that stay on the device until they are asked for.

    `measures` is float64 of shape (10,) if `full`, else (8,); the order is that of `look_at`.
    `bins` counts the numbers by their value in bfloat16, `channel_sums` adds up magnitudes.
    """

    layer: str
    turn: int
    source: str
    start: int
    end: int
    rows: int
    channels: int
    measures: torch.Tensor
    bins: torch.Tensor | None
    channel_sums: torch.Tensor | None

    @property
    def is_aligned(self) -> bool:
        """Whether there is a row for each position."""
        return self.rows == self.end - self.start


def look_at(rows: torch.Tensor, *, full: bool) -> tuple[torch.Tensor, ...]:
    """Measures, and if `full` bins and channel sums, of rows of shape (positions, channels).

    In float32, and nothing is waited for. What is not finite counts as zero here; how many are
    finite is told, and `Span` takes the others out again.
    """
    values = rows.float()
    finite = torch.count_nonzero(torch.isfinite(values))
    values = values.nan_to_num(0.0, posinf=0.0, neginf=0.0)
    variance, mean = torch.var_mean(values, correction=0)
    norms = torch.linalg.vector_norm(values, dim=1)
    magnitudes = values.abs()
    highest, place = magnitudes.reshape(-1).max(dim=0)
    numbers = [mean, variance, norms.mean(), norms.max(), highest]
    counts = torch.stack([finite, torch.count_nonzero(magnitudes < NEAR_ZERO), place])
    if not full:
        return (torch.cat([counts.double(), torch.stack(numbers).double()]),)
    off_mean = values - mean
    squares = off_mean * off_mean
    numbers += [(squares * off_mean).mean(), (squares * squares).mean()]
    keys = values.reshape(-1).bfloat16().view(torch.int16).int()
    places = (keys ^ ((keys >> 15) & 0x7FFF)).long() + _BINS // 2
    measures = torch.cat([counts.double(), torch.stack(numbers).double()])
    return measures, torch.bincount(places, minlength=_BINS), magnitudes.sum(dim=0)


class Span:
    """Looks at one layer, at positions that follow each other in the same turn."""

    def __init__(self, layer: str, turn: int, source: str, start: int) -> None:
        self.layer, self.turn, self.source, self.start, self.end = layer, turn, source, start, start
        self.positions_covered = 0
        self.is_full = True
        self._last_start = -1
        self._calls = self._calls_max = 0
        self._rows = 0
        self._count = self._not_finite = self._near_zeros = 0
        self._mean = 0.0
        # Sums of the second, third and fourth powers of what numbers are off the mean.
        self._powers = (0.0, 0.0, 0.0)
        self._norms = self._norm_max = 0.0
        self._abs_max = -1.0
        self._abs_max_at: tuple[int | None, int] = (None, 0)
        self._bins = torch.zeros(0)
        self._channel_sums = torch.zeros(0)

    def goes_on_with(self, look: Look) -> bool:
        same = (look.turn, look.source) == (self.turn, self.source)
        again = (look.start, look.end) == (self._last_start, self.end)
        return same and (look.start == self.end or again)

    def add(self, look: Look, measures: list[float]) -> None:
        """`measures` are those of the look, brought to this memory."""
        if look.start == self._last_start:
            self._calls += 1
        else:
            self._calls = 1
            self._last_start, self.end = look.start, look.end
            self.positions_covered += min(look.rows, look.end - look.start)
        self._calls_max = max(self._calls_max, self._calls)
        finite, near_zeros, place, mean, variance, norm, norm_max, highest, *third = measures
        bad = look.rows * look.channels - int(finite)
        self._not_finite += bad
        self._near_zeros += int(near_zeros) - bad
        self._norms += norm * look.rows
        self._rows += look.rows
        self._norm_max = max(self._norm_max, norm_max)
        if highest > self._abs_max:
            row, channel = divmod(int(place), look.channels)
            self._abs_max = highest
            self._abs_max_at = (look.start + row if look.is_aligned else None, channel)
        self._add_moments(look.rows * look.channels, bad, mean, variance, third)
        self._add_full(look)

    def _add_moments(
        self, count: int, bad: int, mean: float, variance: float, third: list[float]
    ) -> None:
        m3, m4 = (each * count for each in third) if third and not bad else (math.nan, math.nan)
        m2 = variance * count
        if bad:
            # Numbers that are not finite were counted as zeros: without them.
            squares, total = m2 + count * mean * mean, mean * count
            count -= bad
            mean = total / count if count else 0.0
            m2 = max(0.0, squares - count * mean * mean)
        if not count:
            return
        a2, a3, a4 = self._powers
        na, nb, n = self._count, count, self._count + count
        d = mean - self._mean
        # Products, for a power of a float that overflows raises. After Pebay, 2008.
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

    def _add_full(self, look: Look) -> None:
        if look.bins is None or look.channel_sums is None:
            self.is_full = False
        elif self._bins.numel():
            self._bins = self._bins + look.bins
            self._channel_sums = self._channel_sums + look.channel_sums
        else:
            self._bins, self._channel_sums = look.bins, look.channel_sums

    def statistics(self, *, full: bool) -> dict[str, Any]:
        """By name, to six digits; None for what overflows float32 or cannot be said."""
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
        return {name: _json_number(rounded(value, _DIGITS)) for name, value in found.items()}

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


def observed(spans: Iterable[Span], *, full: bool) -> list[ActivationObserved]:
    """An event for all spans that cover the same; most often that is one."""
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
    """Of numbers rounded to bfloat16: within 0.4 %."""
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
    # The greatest of float32 are rounded beyond what bfloat16 has.
    most = torch.finfo(torch.bfloat16).max
    return bits.view(torch.bfloat16).float().clamp(-most, most)


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
