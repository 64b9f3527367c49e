"""Colours of tokens by their surprise, for terminals."""

from itertools import pairwise

from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style

BOUNDS_NATS = (1.0, 2.0, 4.0)
"""A token below the first has no colour: probabilities of 37, 14 and 2 per cent."""

# Each has its own background, so that it can be read in dark and in light terminals, and is lighter
# than the one before: lightness says how surprising, for those who see no hues, too.
_COLORS = (("#ffffff", "#3b4a6b"), ("#000000", "#8c8a86"), ("#000000", "#f4d94b"))
_COLORS_OF_16 = (("white", "blue"), ("black", "cyan"), ("black", "yellow"))
"""For terminals with 16 colours, the nearest of which could be the same for two of the others."""


def style_of(surprise: float, color_system: ColorSystem) -> Style | None:
    """Return the style of a token by its surprise in nats; None for one that is no surprise."""
    level = sum(surprise >= bound for bound in BOUNDS_NATS)
    if not level:
        return None
    few = color_system in (ColorSystem.STANDARD, ColorSystem.WINDOWS)
    text, background = (_COLORS_OF_16 if few else _COLORS)[level - 1]
    # Made each time: a style remembers the codes of the first colour system that it is written in.
    return Style(color=text, bgcolor=background, bold=level == len(BOUNDS_NATS) or None)


def legend(color_system: ColorSystem) -> list[Segment]:
    """Return a line that names the surprise that each colour is for."""
    names = [f"below {BOUNDS_NATS[0]:.0f}"]
    names += [f"{low:.0f} to {high:.0f}" for low, high in pairwise(BOUNDS_NATS)]
    names.append(f"{BOUNDS_NATS[-1]:.0f} or more")
    levels = (0.0, *BOUNDS_NATS)
    samples = [
        Segment(f" {name} ", style_of(level, color_system))
        for name, level in zip(names, levels, strict=True)
    ]
    return [Segment("surprise of each token, in nats:"), *samples, Segment("\n")]
