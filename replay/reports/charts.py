"""SVG shapes of a series of numbers, one a token, thinned so that every maximum stays visible."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Decades drawn below the threshold, and above it unless a value is higher.
_DECADES_BELOW = 4
_DECADES_ABOVE = 1
_THRESHOLD_IF_UNKNOWN = 1e-4
_TOP = 9.0
_BASE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A log scale that several charts share."""

    low: float
    high: float
    threshold: float | None
    """The largest value that is noise; None where no floor is known."""

    def fraction(self, value: float) -> float:
        """Return the position of a value, from 0 for `low` and less to 1 for `high` and more."""
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
    """Return a scale of whole decades that covers all values."""
    middle = threshold or _THRESHOLD_IF_UNKNOWN
    highest = max((value for value in values if math.isfinite(value)), default=0.0)
    high = middle * 10.0**_DECADES_ABOVE
    if highest > high:
        high = 10.0 ** math.ceil(math.log10(highest))
    return Scale(low=middle * 10.0**-_DECADES_BELOW, high=high, threshold=threshold)


def thin(values: Sequence[float | None], strokes_max: int) -> list[float | None]:
    """Return at most `strokes_max` values, each the largest of an equal share of neighbours.

    A share with a None gives None; one with a NaN gives NaN.
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
    """Return the chart of a series with one value a token.

    `marks` are the tokens with a divergence, and whether it is a near tie. `size` is width and
    height in pixels. `title` and `description` are for screen readers.
    """
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
    triangles: dict[int, bool] = {}
    for token, tie in marks:
        index = min(token * len(thinned) // max(len(values), 1), len(thinned) - 1)
        # A stroke of several tokens is a near tie only if all of them are.
        triangles[index] = triangles.get(index, True) and tie
    triangle_paths = {
        kind: "".join(
            f"M{(index + 0.5) * step - 3:.1f} 1h6l-3 5z"
            for index, is_tie in sorted(triangles.items())
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
        **triangle_paths,
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
        # A stroke of the least height: the difference is small, but not zero.
        fraction = 0.01
    above = scale.threshold is not None and value > scale.threshold
    return "above" if above else "within", fraction
