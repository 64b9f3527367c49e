"""A drawing of boxes, lines and text as SVG, which follows the reader's light or dark mode."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH = 640
CHAR_WIDTH = 7.25
"""The width of a character of the monospaced font at 12 pixels; wider than most fonts have it."""
LINE_HEIGHT = 17

_STYLE = """
  .ground { fill: #ffffff; stroke: #d0d7de; }
  .box { fill: #f3f5f7; stroke: #8c959f; }
  .blue { fill: #dbeafe; stroke: #2563eb; }
  .orange { fill: #ffe8cc; stroke: #c2410c; }
  .empty { fill: none; stroke: #8c959f; stroke-dasharray: 4 3; }
  .line { stroke: #57606a; stroke-width: 1.5; fill: none; }
  .head { fill: #57606a; }
  text { fill: #1f2328; font: 12px ui-monospace, "DejaVu Sans Mono", monospace; }
  .quiet { fill: #57606a; }
  .strong { font-weight: bold; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #16181d; stroke: #3d444d; }
    .box { fill: #24282f; stroke: #7d8590; }
    .blue { fill: #12305c; stroke: #6ea8fe; }
    .orange { fill: #4d2606; stroke: #ffa657; }
    .empty { stroke: #7d8590; }
    .line { stroke: #9aa4af; }
    .head { fill: #9aa4af; }
    text { fill: #e6edf3; }
    .quiet { fill: #9aa4af; }
  }
""".strip("\n")


@dataclass
class Drawing:
    """Shapes that are added from top to bottom; `y` is where the next one may begin."""

    title: str
    about: str
    """What the drawing shows, for a reader who does not see it."""
    y: float = 16
    _shapes: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, text: str, style: str = "", *, anchor: str = "start"
    ) -> None:
        """Write one line, whose baseline is `y`."""
        self._shapes.append(
            f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def paragraph(
        self, text: str, x: float = 20, style: str = "quiet", *, width: float | None = None
    ) -> None:
        """Write a text in as many lines as it needs, and move down."""
        for line in lines_of(text, width or WIDTH - 20 - x):
            self.y += LINE_HEIGHT
            self.text(x, self.y, line, style)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        lines: Sequence[str] = (),
        style: str = "box",
    ) -> None:
        """Draw a box with lines of text in its middle; the first is bold if there are several."""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" '
            f'class="{style}"/>'
        )
        top = y + height / 2 - (len(lines) - 1) * LINE_HEIGHT / 2 + 4
        for index, line in enumerate(lines):
            strong = "strong" if index == 0 and len(lines) > 1 else ""
            self.text(x + width / 2, top + index * LINE_HEIGHT, line, strong, anchor="middle")

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw a line that ends in the head of an arrow, downwards or to the right."""
        self._shapes.append(f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" class="line"/>')
        points = (
            f"{x2:g},{y2:g} {x2 - 4:g},{y2 - 7:g} {x2 + 4:g},{y2 - 7:g}"
            if x1 == x2
            else f"{x2:g},{y2:g} {x2 - 7:g},{y2 - 4:g} {x2 - 7:g},{y2 + 4:g}"
        )
        self._shapes.append(f'<polygon points="{points}" class="head"/>')

    def elbow(self, x: float, y1: float, y2: float) -> None:
        """Draw a vertical line, from which an arrow to the right may begin."""
        self._shapes.append(f'<path d="M{x:g} {y1:g}L{x:g} {y2:g}" class="line"/>')

    def to_svg(self) -> str:
        """Return the SVG, as high as its shapes need."""
        height = self.y + 20
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
                f'width="{WIDTH}" height="{height:g}" role="img" aria-labelledby="title about">',
                f'<title id="title">{escape(self.title)}</title>',
                f'<desc id="about">{escape(self.about)}</desc>',
                f"<style>\n{_STYLE}\n</style>",
                f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="6" '
                'class="ground"/>',
                *self._shapes,
                "</svg>\n",
            ]
        )


def lines_of(text: str, width: float) -> list[str]:
    """Return a text in lines that fit into a width."""
    return textwrap.wrap(text, int(width / CHAR_WIDTH), break_on_hyphens=False)


def width_of(text: str) -> float:
    """Return the width of a box around a text."""
    return len(text) * CHAR_WIDTH + 14
