"""The one way out to a screen: standard output and standard error, with every text escaped.

No other module writes to the standard streams; `tests/door/test_screen_rules.py` checks that.
"""

import contextlib
import io
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TextIO, cast

import rich.table
from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from tokentape.recorder.escapes import VisibleLines, single_line, visible_lines
from tokentape.streams import EscapingStream, is_unicode

# A pipe has no width, and 80 columns would cut the tables.
_PIPE_COLUMNS = 160


class Screen:
    """A standard stream of the process, as it is when something is written."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name
        self._visible = VisibleLines()

    def line(self, text: str = "") -> None:
        """Write one line; a line end within it is escaped, so that no text forges a line."""
        self._write(single_line(text) + "\n")

    def text(self, text: str) -> None:
        """Write a text with the line ends that it has, or the next piece of one."""
        self._write(self._visible.add(text))

    def lines(self, lines: Iterable[str]) -> None:
        """Write several texts, each on a line of its own."""
        for each in lines:
            self.line(each)

    def json(self, value: Any) -> None:
        """Write a value as JSON, in ASCII where the stream cannot hold each character.

        A character that cannot be seen is a JSON escape, so that a program reads the exact text.
        """
        text = json.dumps(value, ensure_ascii=not is_unicode(self.stream), indent=2)
        self._write("\n".join(map(_json_line, text.split("\n"))) + "\n")

    def console(self) -> Console:
        """Return a console for tables, trees and styles: as wide as the terminal, or 160 columns.

        It interprets no markup and no emoji codes, and escapes all text.
        """
        stream = self.stream
        columns = None if stream.isatty() else _PIPE_COLUMNS
        return _EscapingConsole(
            file=cast(TextIO, _EscapedText(stream)),
            width=columns,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def show(self, renderable: RenderableType) -> None:
        """Write a table or a tree."""
        self.console().print(renderable)

    def confirm(self, question: str) -> bool:
        """Ask the user a question, and return the answer. Raise typer.Abort without one."""
        import typer

        return bool(typer.confirm(single_line(question), err=self._name == "stderr"))

    def secret(self, question: str) -> str:
        """Ask the user for a text that is not shown. Raise typer.Abort without one."""
        import typer

        is_err = self._name == "stderr"
        return str(typer.prompt(single_line(question), hide_input=True, err=is_err))

    def flush(self) -> None:
        """Show all text written so far."""
        self.stream.flush()

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads the stream."""
        return self.stream.isatty()

    @property
    def stream(self) -> TextIO:
        stream: TextIO = getattr(sys, self._name)
        return stream

    def _write(self, escaped: str) -> None:
        _write_escaped(self.stream, escaped)


out = Screen("stdout")
"""For data."""

err = Screen("stderr")
"""For progress, messages and errors."""


class Table(rich.table.Table):
    """A table whose cells are text, even if it looks like markup, with no line ends."""

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """Add a row; each string is escaped."""
        shown = (Text(single_line(each)) if isinstance(each, str) else each for each in cells)
        super().add_row(*shown, **settings)


@contextlib.contextmanager
def live_below(display: Live) -> Iterator[None]:
    """Show something that changes on standard error, and all other text for it above."""
    # Closing it shows a text without a line end.
    closing = contextlib.closing(_AboveDisplay(display.console))
    with display, closing as above, contextlib.redirect_stderr(above):
        yield


class _EscapingConsole(Console):
    """A console that escapes every text it renders; styles and cursor movements are its own."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            shown = text if control else visible_lines(text)
            yield Segment(shown, style, control)


class _EscapedText:
    """A stream for a console, which has escaped the text itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        _write_escaped(self._stream, text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _AboveDisplay(io.TextIOBase):
    """Standard error during a live display: writes whole lines above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pending = ""

    def write(self, text: str, /) -> int:
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._console.print(Text(single_line(line)), soft_wrap=True)
        return len(text)

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        if self._pending:
            self.write("\n")
        super().close()


def _write_escaped(stream: TextIO, escaped: str) -> None:
    if isinstance(stream, EscapingStream):
        stream.write_escaped(escaped)
    else:
        stream.write(escaped)


def _json_line(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)
