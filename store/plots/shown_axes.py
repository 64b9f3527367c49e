"""New axes in a figure that pyplot does not know, and that a notebook shows."""

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure


class ShownAxes(Axes):
    """Axes whose figure a notebook shows where they are the value of a cell."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        assert isinstance(self.figure, Figure)
        self.figure.savefig(picture, format="png", dpi=110)
        return picture.getvalue()


def new_axes(width_inches: float, height_inches: float) -> Axes:
    """Return the axes of a new figure."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    axes: Axes = figure.add_subplot(axes_class=ShownAxes)
    return axes
