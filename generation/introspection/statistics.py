"""Statistics of a tensor's values, computed chunk by chunk in at most two passes."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch

from tokentape.generation.introspection.order_statistics import OrderStatistics, ranks_between

PERCENTILES = (5, 25, 50, 75, 95)
NEAR_ZERO = 1e-6
HISTOGRAM_BINS = 50

Chunks = Callable[[], Iterator[torch.Tensor]]
"""Returns the same chunks on each call: float32, shape (values,)."""


class Moments:
    """Running moments in float64. Values that are not finite are only counted."""

    def __init__(self) -> None:
        self.count = 0
        self.not_finite = 0
        self.mean = 0.0
        self.sum_abs = 0.0
        self.min = math.inf
        self.max = -math.inf
        self.zeros = 0
        self.near_zeros = 0
        self._squared_deviations = 0.0

    def add(self, chunk: torch.Tensor) -> None:
        """Add a chunk of finite values, not empty."""
        magnitudes = chunk.abs()
        self.sum_abs += magnitudes.sum(dtype=torch.float64).item()
        self.zeros += chunk.numel() - int(torch.count_nonzero(chunk))
        self.near_zeros += int(torch.count_nonzero(magnitudes < NEAR_ZERO))
        lowest, highest = torch.aminmax(chunk)
        self.min = min(self.min, lowest.item())
        self.max = max(self.max, highest.item())
        values = chunk.double()
        count, mean = values.numel(), values.mean().item()
        squares = (values - mean).square_().sum().item()
        total = self.count + count
        self._squared_deviations += squares + (mean - self.mean) ** 2 * self.count * count / total
        self.mean += (mean - self.mean) * count / total
        self.count = total

    @property
    def std(self) -> float:
        """The sample standard deviation, as in torch and pandas; zero for a single value."""
        return math.sqrt(self._squared_deviations / (self.count - 1)) if self.count > 1 else 0.0

    @property
    def l2_norm(self) -> float:
        return math.sqrt(self._squared_deviations + self.count * self.mean**2)


def basic_statistics(chunks: Chunks) -> dict[str, Any]:
    """Return mean, std, min, max and l2_norm; without a finite value, None for all but the norm."""
    return _basic(_first_pass(chunks, None))


def full_statistics(chunks: Chunks) -> dict[str, Any]:
    """Return the basic statistics, histogram, percentiles and sums, in two passes.

    Percentiles are interpolated linearly, as in numpy.
    """
    order = OrderStatistics()
    moments = _first_pass(chunks, order)
    if not moments.count:
        return _basic(moments) | _nothing()
    around = ranks_between(moments.count, PERCENTILES)
    edges = _edges(moments)
    order.select([rank for before, after, _ in around for rank in (before, after)], edges[1:-1])
    for chunk in _finite(chunks, None):
        order.count_selected(chunk)
    below = [0, *(order.count_below(edge) for edge in edges[1:-1]), moments.count]
    percentiles = {
        str(percent): _between(order.value_at(before), order.value_at(after), share)
        for percent, (before, after, share) in zip(PERCENTILES, around, strict=True)
    }
    return _basic(moments) | {
        "median": percentiles["50"],
        "abs_mean": moments.sum_abs / moments.count,
        "zeros_percentage": 100.0 * moments.zeros / moments.count,
        "near_zero_percentage": 100.0 * moments.near_zeros / moments.count,
        "l1_norm": moments.sum_abs,
        "histogram": {
            "bins": HISTOGRAM_BINS,
            "counts": [right - left for left, right in pairwise(below)],
            "edges": edges,
        },
        "percentiles": percentiles,
    }


def round_floats(value: Any, digits: int) -> Any:
    """Return a copy with every float, at any depth, rounded to significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: round_floats(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [round_floats(each, digits) for each in value]
    return value


def _first_pass(chunks: Chunks, order: OrderStatistics | None) -> Moments:
    moments = Moments()
    for chunk in _finite(chunks, moments):
        moments.add(chunk)
        if order is not None:
            order.count(chunk)
    return moments


def _finite(chunks: Chunks, moments: Moments | None) -> Iterator[torch.Tensor]:
    for chunk in chunks():
        # If any value is not finite, the minimum or the maximum is not.
        ends = torch.stack(torch.aminmax(chunk))
        finite = chunk if bool(torch.isfinite(ends).all()) else chunk[torch.isfinite(chunk)]
        if moments is not None:
            moments.not_finite += chunk.numel() - finite.numel()
        if finite.numel():
            yield finite


def _basic(moments: Moments) -> dict[str, Any]:
    some = moments.count > 0
    found = {
        "mean": moments.mean if some else None,
        "std": moments.std if some else None,
        "min": moments.min if some else None,
        "max": moments.max if some else None,
        "l2_norm": moments.l2_norm,
    }
    # The count shows that the other numbers leave some values out.
    return found | ({"not_finite": moments.not_finite} if moments.not_finite else {})


def _nothing() -> dict[str, Any]:
    undefined = ("median", "abs_mean", "zeros_percentage", "near_zero_percentage")
    return dict[str, Any].fromkeys(undefined) | {
        "l1_norm": 0.0,
        "histogram": {"bins": 0, "counts": [], "edges": []},
        "percentiles": {str(percent): None for percent in PERCENTILES},
    }


def _edges(moments: Moments) -> list[float]:
    """Return the histogram's edges; around a single value they span 1, as in numpy."""
    wider = 0.5 if moments.min == moments.max else 0.0
    edges: list[float] = torch.linspace(
        moments.min - wider, moments.max + wider, HISTOGRAM_BINS + 1, dtype=torch.float64
    ).tolist()
    return edges


def _between(below: float, above: float, share: float) -> float:
    return below + (above - below) * share
