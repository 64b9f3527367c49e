"""The one way out to a screen: standard output and standard error, with every text escaped.

No other module writes to the standard streams; `tests/door/test_screen_rules.py` checks that.
"""

import contextlib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO, cast

import rich.table
from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import COLOR_SYSTEMS, Console, ConsoleOptions, JustifyMethod, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from tokentape.recorder.escapes import VisibleLines, single_line, visible_lines
from tokentape.streams import EscapingStream, is_unicode

# A pipe has no width, and 80 columns would cut the tables.
_PIPE_COLUMNS = 160
_WRAPPED_COLUMNS = 12
"""The least width of a column of texts that are wrapped, if it is not given another."""
_GAP = 2
"""Spaces from one column of a table to the next."""

_STYLES = {"good": "green", "bad": "bold red", "note": "yellow", "a": "red", "b": "green"}


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

    def toned(self, lines: Iterable[tuple[str, str]]) -> None:
        """Write lines, each with its tone, which is a colour where the terminal has colours."""
        console = self.console()
        for text, tone in lines:
            console.print(toned(text, tone), soft_wrap=True)

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

    def segments(self, segments: Iterable[Segment]) -> str:
        """Write the next pieces of a text, styled where the terminal has colours.

        Return the text as it is shown. A control segment is written as it is, and has nothing
        of a recording; a style ends before a line end, which would colour the rest of the row.
        """
        shown = ""
        for text, style, control in segments:
            colors = self.color_system if style else None
            if control:
                self._write(text)
                continue
            piece = self._visible.add(text)
            shown += piece
            for line in piece.splitlines(keepends=True):
                inner = line.rstrip("\n")
                styled = style.render(inner, color_system=colors) if style and colors else inner
                self._write(styled + line[len(inner) :])
        return shown

    def show(self, renderable: RenderableType) -> None:
        """Write a table or a tree. Where it is wider than the terminal, the terminal wraps it."""
        self.console().print(renderable, crop=False)

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
    def color_system(self) -> ColorSystem | None:
        """The colours that the stream has; None without any.

        That is a terminal, or FORCE_COLOR; not TERM=dumb, and not with NO_COLOR.
        """
        console = self.console()
        name = None if console.no_color else console.color_system
        return None if name is None else COLOR_SYSTEMS[name]

    @property
    def columns(self) -> int:
        """The width of the terminal, or 160."""
        return self.console().width

    @property
    def moves_cursor(self) -> bool:
        """Whether the stream is a terminal whose cursor can be moved."""
        return self.is_terminal and not self.console().is_dumb_terminal

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


def toned(text: str, tone: str) -> Text:
    """Return a line of text in the style of a tone; see `tokentape.replay.reports.tones`."""
    return Text(single_line(text), style=_STYLES.get(tone, ""))


out = Screen("stdout")
"""For data."""

err = Screen("stderr")
"""For progress, messages and errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A column of a `Table`, and how the table may make it narrower."""

    heading: str
    justify: JustifyMethod = "left"
    drop: int | None = None
    wrap: bool = False
    if_any: bool = False
    least: int = _WRAPPED_COLUMNS


class Table:
    """A table that fits the terminal, whose cells are text, even if it looks like markup.

    Where it is too wide, the columns with `wrap` become narrower, down to `least` or the longest
    word of their heading, and their texts take several lines; then the columns with `drop` are left
    out, those with the highest number first, and a line below names them. A column with neither,
    such as one of ids, is never cut: it can be copied. A column with `if_any` is shown only if one
    of its cells has a text.

        table = Table()
        table.add_column("run")
        table.add_column("name", wrap=True)
        table.add_column("prompt", justify="right", drop=2)
        table.add_column("seconds", justify="right", drop=1)
        table.add_row(run_id, name, "1,204", "3.1")
        out.show(table)
    """

    def __init__(self, *headings: str) -> None:
        self._columns = [_Column(heading=each) for each in headings]
        self._rows: list[tuple[Text, ...]] = []

    def add_column(
        self,
        heading: str,
        *,
        justify: JustifyMethod = "left",
        drop: int | None = None,
        wrap: bool = False,
        if_any: bool = False,
        least: int = _WRAPPED_COLUMNS,
    ) -> None:
        """Add a column; see the class for what happens to it in a narrow terminal."""
        self._columns.append(
            _Column(
                heading=heading,
                justify=justify,
                drop=drop,
                wrap=wrap,
                if_any=if_any,
                least=least,
            )
        )

    def add_row(self, *cells: str | Text) -> None:
        """Add a row with a cell for each column; line ends in strings are escaped."""
        shown = (Text(single_line(each)) if isinstance(each, str) else each for each in cells)
        self._rows.append(tuple(shown))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        shown = [index for index, each in enumerate(self._columns) if self._has_content(index)]
        dropped: list[int] = []
        while self._least_width(shown) > options.max_width:
            candidates = [index for index in shown if self._columns[index].drop is not None]
            if not candidates:
                break
            least = max(candidates, key=lambda index: (self._columns[index].drop or 0, index))
            shown.remove(least)
            dropped.append(least)
        # Wider than the terminal rather than cut: the terminal wraps it, and it can be copied.
        width = max(options.max_width, self._least_width(shown))
        yield from console.render(self._drawn(shown, width), options.update(width=width))
        if dropped:
            names = ", ".join(self._columns[index].heading for index in sorted(dropped))
            yield Text(f" not shown in {options.max_width} columns: {names}", style="dim")

    def _has_content(self, index: int) -> bool:
        return not self._columns[index].if_any or any(row[index].plain for row in self._rows)

    def _least_width(self, shown: Sequence[int]) -> int:
        return sum(self._least_column_width(index) + _GAP for index in shown)

    def _column_width(self, index: int) -> int:
        heading = cell_len(self._columns[index].heading)
        return max([heading, *(row[index].cell_len for row in self._rows)])

    def _least_column_width(self, index: int) -> int:
        column, width = self._columns[index], self._column_width(index)
        if not column.wrap:
            return width
        return min(width, max(column.least, *map(cell_len, column.heading.split())))

    def _widths(self, shown: Sequence[int], table_width: int) -> list[int]:
        """Return the widths of the columns: the widest that wrap become narrower until all fit.

        Rich would also narrow columns that cannot be, and make them wide again.
        """
        least = [self._least_column_width(index) for index in shown]
        widths = [
            max(low, min(self._column_width(index), table_width))
            for index, low in zip(shown, least, strict=True)
        ]
        while sum(widths) + _GAP * len(widths) > table_width:
            spare = [place for place, low in enumerate(least) if widths[place] > low]
            if not spare:
                break
            widths[max(spare, key=lambda place: widths[place])] -= 1
        return widths

    def _drawn(self, shown: Sequence[int], table_width: int) -> rich.table.Table:
        table = rich.table.Table(box=None)
        for index, width in zip(shown, self._widths(shown, table_width), strict=True):
            column = self._columns[index]
            table.add_column(
                column.heading,
                justify=column.justify,
                no_wrap=not column.wrap,
                overflow="fold",
                width=width,
            )
        for row in self._rows:
            table.add_row(*(row[index] for index in shown))
        return table


@contextlib.contextmanager
def live_below(display: Live) -> Iterator[None]:
    """Show something that changes on standard error, and all other text for it above."""
    # Closing it shows a text without a line end.
    closing = contextlib.closing(_AboveDisplay(display.console))
    with display, closing as above, contextlib.redirect_stderr(above):
        yield


@contextlib.contextmanager
def stdout_on_stderr() -> Iterator[None]:
    """Show on standard error what code of the user prints: standard output is for data."""
    with contextlib.redirect_stdout(cast(TextIO, _Printed())):
        yield


class _Printed(io.TextIOBase):
    """Standard output of code of the user."""

    def write(self, text: str, /) -> int:
        err.text(text)
        return len(text)


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
