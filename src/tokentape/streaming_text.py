"""Text that comes in pieces on standard output, coloured by surprise, with a status below it."""

import time

from rich.cells import cell_len
from rich.segment import ControlType, Segment

from tokentape.recorder.escapes import single_line
from tokentape.screen import err, out
from tokentape.surprise_colors import legend, style_of

_STATUS_S = 0.2
"""Seconds from one drawing of a status to the next."""
_TAB_CELLS = 8
_CONTROL = [(ControlType.HOME,)]
"""Says that a segment is no text; its kind does not matter."""
# ECMA-48 and DEC: make room for a line below, and return; save the cursor and go to that line;
# restore the cursor.
_ROOM, _DOWN, _BACK = "\x1bD\x1b[1A", "\x1b7\x1b[1B\r", "\x1b8"
_ERASE_LINE, _ERASE_REST = "\x1b[2K", "\x1b[K"


class StreamingText:
    """Standard output for a text that comes in pieces, and a status line on standard error.

    Pieces have the colour of their surprise if standard output has colours: see
    `tokentape.surprise_colors`. The status is drawn only if standard error is a terminal that moves
    its cursor: below the text if that is on a terminal, too. It is removed before any other text;
    other writes to the terminal must come after `clear`, and end their line.
    """

    def __init__(self) -> None:
        self._colors = out.color_system
        self._draws_status = err.moves_cursor
        self._is_below = out.is_terminal
        self._row = _Row()
        self._surprise: float | None = None
        self._has_status = self._has_legend = False
        self._drawn_at = 0.0

    def add(self, text: str, surprise: float | None = None) -> None:
        """Write the next piece; an empty one passes its surprise on to the next."""
        if surprise is not None:
            self._surprise = max(surprise, self._surprise or 0.0)
        if not text:
            return
        self.clear()
        style = None
        if self._surprise is not None and self._colors is not None:
            style = style_of(self._surprise, self._colors)
        self._surprise = None
        shown = out.segments([Segment(text, style)])
        out.flush()
        if self._draws_status and self._is_below:
            self._row.add(shown, out.columns)

    def status(self, text: str) -> None:
        """Show a status of one line, at most five times a second."""
        now = time.monotonic()
        if not self._draws_status or not text or now - self._drawn_at < _STATUS_S:
            return
        columns = err.columns
        if self._is_below and not self._row.has_room_below(columns):
            return
        self._drawn_at, self._has_status = now, True
        shown = single_line(text)[: columns - 1]
        before, after = (_ROOM + _DOWN, _ERASE_REST + _BACK) if self._is_below else ("\r", "\x1b[K")
        controls = [Segment(each, None, _CONTROL) for each in (before, after)]
        err.segments([controls[0], Segment(shown), controls[1]])
        err.flush()

    def clear(self) -> None:
        """Remove the status."""
        if not self._has_status:
            return
        self._has_status = False
        erased = _DOWN + _ERASE_LINE + _BACK if self._is_below else f"\r{_ERASE_LINE}"
        err.segments([Segment(erased, None, _CONTROL)])
        err.flush()

    def show_legend(self) -> None:
        """Say on standard error what the colours mean; only once, and where there are any."""
        if self._has_legend or self._colors is None or err.color_system is None:
            return
        self._has_legend = True
        self.clear()
        err.segments(legend(err.color_system))
        err.flush()


class _Row:
    """The row of a terminal that a text has reached: how many of its columns are taken."""

    def __init__(self) -> None:
        self.column = 0
        self._is_known = True

    def add(self, shown: str, columns: int) -> None:
        """Take note of the next piece, as it is shown in a terminal of so many columns."""
        _, end, rest = shown.rpartition("\n")
        if end:
            self.column, self._is_known = 0, True
        for character in rest:
            if character == "\t":
                self.column = min((self.column // _TAB_CELLS + 1) * _TAB_CELLS, columns - 1)
                continue
            cells = cell_len(character)
            wraps = self.column + cells > columns
            # Terminals differ in marks, in joined emoji, and in a wide character at the edge.
            self._is_known &= cells > 0 and not (wraps and cells > 1)
            self.column = cells if wraps else self.column + cells

    def has_room_below(self, columns: int) -> bool:
        """Return whether the cursor can leave the row and come back.

        At the end of a full row a terminal waits for the next character before it wraps, and may
        forget that when the cursor moves: the next character would then replace the last one.
        """
        return self._is_known and self.column < columns
