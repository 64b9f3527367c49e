"""Draw the pictures of the documentation from what commands print: `python docs/make_images.py`."""

import io
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console

from tokentape.cli import app

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
COMMANDS = {"show": "tokentape show --store sampled.tape --turn 2"}


class Terminal(Console):
    """A terminal whose lines are wrapped at its edge, as those of a real one are."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as the command does, but without lines beyond the edge."""
        super().print(*objects, **options | {"soft_wrap": False})


class DrawnText(io.StringIO):
    """Standard output that is drawn by a console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def write(self, text: str, /) -> int:
        """Draw a text."""
        self._console.print(text, end="", markup=False)
        return len(text)


def draw(command: str) -> str:
    """Return an SVG of a terminal in which a command has printed, in the folder of the tapes."""
    console = Terminal(
        record=True,
        width=104,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
    )
    console.print(f"$ {command}", style="bold", markup=False)
    before = Path.cwd()
    os.chdir(ROOT / "examples" / "ci" / "recordings")
    # Commands print local times.
    zone = patch.dict(os.environ, {"TZ": "UTC"})
    zone.start()
    time.tzset()
    try:
        shown = patch("tokentape.screen.Screen.console", return_value=console)
        with shown, redirect_stdout(DrawnText(console)):
            app(command.split()[1:], standalone_mode=False)
    finally:
        zone.stop()
        time.tzset()
        os.chdir(before)
    return console.export_svg(title="tokentape", unique_id="tokentape")


def main() -> None:
    """Write every picture."""
    IMAGES.mkdir(exist_ok=True)
    for name, command in COMMANDS.items():
        path = IMAGES / f"{name}.svg"
        path.write_text(draw(command), encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
