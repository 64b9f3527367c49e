"""Series of a turn as small charts: shapes for an SVG, thinned so that no maximum is lost."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Decades that are drawn below the threshold, and above it where nothing is higher.
_DECADES_BELOW = 4
_DECADES_ABOVE = 1
_THRESHOLD_IF_UNKNOWN = 1e-4
_TOP = 9.0
_BASE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A log scale that several charts share: from `low` to `high`, with what is noise up to
    `threshold` where that is known.
    """

    low: float
    high: float
    threshold: float | None

    def fraction(self, value: float) -> float:
        """Where a value is, from 0 for `low` and all below to 1 for `high`."""
        if value <= self.low:
            return 0.0
        if value >= self.high:
            return 1.0
        return math.log10(value / self.low) / math.log10(self.high / self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """SVG shapes of one series, for a box of `width` by `height` pixels.

    The paths are vertical strokes up from `base`: `within` are values up to the threshold, `above`
    values over it, `missing` tokens without a number. `diverged` and `near_ties` are triangles over
    divergences and near ties. `stroke` is the width of a stroke.
    """

    width: int
    height: int
    base: float
    stroke: float
    threshold_y: float | None
    within: str
    above: str
    missing: str
    diverged: str
    near_ties: str
    tokens_a_stroke: int
    title: str
    description: str


def scale_of(values: Iterable[float], threshold: float | None) -> Scale:
    """A scale of whole decades for all of these values."""
    middle = threshold or _THRESHOLD_IF_UNKNOWN
    highest = max((value for value in values if math.isfinite(value)), default=0.0)
    high = middle * 10.0**_DECADES_ABOVE
    if highest > high:
        high = 10.0 ** math.ceil(math.log10(highest))
    return Scale(low=middle * 10.0**-_DECADES_BELOW, high=high, threshold=threshold)


def thin(values: Sequence[float | None], strokes_max: int) -> list[float | None]:
    """At most so many values, each the largest of as many neighbours; None, or not a number, where
    one of these has none.
    """
    count = min(len(values), strokes_max)
    return [
        _largest(values[len(values) * each // count : len(values) * (each + 1) // count])
        for each in range(count)
    ]


def draw(
    values: Sequence[float | None],
    scale: Scale,
    marks: Iterable[tuple[int, bool]],
    *,
    size: tuple[int, int],
    strokes_max: int,
    title: str,
    description: str,
) -> Chart:
    """A chart of a value a token. `marks` are tokens, and whether what is there is a near tie."""
    width, height = size
    base = height - _BASE
    thinned = thin(values, strokes_max)
    step = width / max(len(thinned), 1)
    paths: dict[str, list[str]] = {"within": [], "above": [], "missing": []}
    for index, value in enumerate(thinned):
        kind, fraction = _kind(value, scale)
        if fraction > 0.0:
            y = base - fraction * (base - _TOP)
            paths[kind].append(f"M{(index + 0.5) * step:.1f} {y:.1f}V{base:g}")
    places: dict[int, bool] = {}
    for token, tie in marks:
        index = min(token * len(thinned) // max(len(values), 1), len(thinned) - 1)
        # Where a stroke is both, it is the worse of them.
        places[index] = places.get(index, True) and tie
    triangles = {
        kind: "".join(
            f"M{(index + 0.5) * step - 3:.1f} 1h6l-3 5z"
            for index, is_tie in sorted(places.items())
            if is_tie == tie
        )
        for kind, tie in (("diverged", False), ("near_ties", True))
    }
    threshold_y = None
    if scale.threshold is not None:
        threshold_y = round(base - scale.fraction(scale.threshold) * (base - _TOP), 1)
    return Chart(
        width=width,
        height=height,
        base=base,
        stroke=round(min(max(step * 0.7, 0.8), 4.0), 1),
        threshold_y=threshold_y,
        tokens_a_stroke=math.ceil(len(values) / max(len(thinned), 1)),
        title=title,
        description=description,
        **{name: "".join(path) for name, path in paths.items()},
        **triangles,
    )


def _largest(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None
    return math.nan if any(map(math.isnan, numbers)) else max(numbers)


def _kind(value: float | None, scale: Scale) -> tuple[str, float]:
    if value is None or math.isnan(value):
        return "missing", 1.0
    fraction = scale.fraction(value)
    if 0.0 < value <= scale.low:
        # There is a difference, however small.
        fraction = 0.01
    above = scale.threshold is not None and value > scale.threshold
    return "above" if above else "within", fraction
