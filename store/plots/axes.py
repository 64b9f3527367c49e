"""The axes that plots are drawn into, and what all of them look like."""

from typing import TYPE_CHECKING

from tokentape.recorder.escapes import visible
from tokentape.store.errors import MissingLibraryError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of the palette of Okabe and Ito (2008), which colour-blind people tell apart.
BLUE, ORANGE, SKY, VERMILION = "#0072B2", "#E69F00", "#56B4E9", "#D55E00"
GREY = "#999999"
LINES = (BLUE, VERMILION, "#009E73", "#CC79A7", ORANGE, SKY)
"""The colours of lines in one plot, in this order."""

_WIDTH_INCHES = 8.0
_NEXT_UNIT = 999.5
"""The size that would be rounded to 1,000 of a unit."""


def axes_of(ax: "Axes | None", *, height_inches: float = 3.2) -> "Axes":
    """Return the axes, or those of a new figure. Raise MissingLibraryError without matplotlib."""
    if ax is not None:
        return ax
    try:
        from tokentape.store.plots.shown_axes import new_axes
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise MissingLibraryError(
            'plots need matplotlib, which is not installed: pip install "tokentape[plots]"'
        ) from None
    return new_axes(_WIDTH_INCHES, height_inches)


def finish(ax: "Axes", title: str, *, x: str = "", y: str = "") -> "Axes":
    """Set the title and the labels of the axes, and return the axes."""
    ax.set_title(plain(title), loc="left", fontsize="medium")
    ax.set_xlabel(plain(x))
    ax.set_ylabel(plain(y))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def whole_numbers(ax: "Axes") -> None:
    """Let the ticks of the x axis be whole numbers, such as those of turns."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plain(text: str) -> str:
    """Return a recorded text as it is shown: no control characters, no formulas of matplotlib."""
    return visible(text).replace("$", r"\$")


def bytes_text(count: float) -> str:
    """Return a number of bytes with its decimal unit, such as `5.2 MB`, as a run's page does.

    A size of 10 or more of a unit is rounded to whole ones, such as `312 kB`.
    """
    if count < 1000:
        return f"{count:,.0f} byte{'' if count == 1 else 's'}"
    size = count
    for name in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < _NEXT_UNIT or name == "TB":
            break
    return f"{size:,.1f} {name}" if size < 10 else f"{size:,.0f} {name}"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as `1 turn` and `2,000 turns`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
