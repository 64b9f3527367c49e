"""Show text of models and tools safely: characters that cannot be seen are escaped."""

import unicodedata
from collections.abc import Iterator
from typing import Literal

from rich.cells import cell_len

# Printable according to Unicode, and blank on every screen.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_MARKS_IN_A_ROW_MAX = 2
# Longer than any sentence, name or command.
_CHARACTERS_MAX = 5_000


def visible(text: str) -> str:
    """Return the text as one line of printable characters; backslashes stay single.

    A text of more than 5,000 characters is cut, and its length is appended.
    """
    line = "".join(shown for _, shown in escape(text[:_CHARACTERS_MAX]))
    return line if len(text) <= _CHARACTERS_MAX else f"{line}… ({len(text):,} characters)"


def visible_lines(text: str) -> str:
    """Return the text in printable characters; line ends and tabs stay."""
    return VisibleLines().add(text)


class VisibleLines:
    """The `visible_lines` of a text that comes in pieces, wherever it is cut."""

    def __init__(self) -> None:
        self._cell = _Escaper()

    def add(self, piece: str) -> str:
        """Return the next piece in printable characters."""
        shown = []
        for character in piece:
            if character in "\n\t":
                self._cell = _Escaper()
                shown.append(character)
            else:
                shown.append(self._cell.show(character)[1])
        return "".join(shown)


def escape(text: str) -> Iterator[tuple[bool, str]]:
    """Yield each character as it is shown, and whether that is an escape sequence.

    Escaped are control and format characters (ANSI, line ends, direction, zero width), surrogates,
    blanks except the space, variation selectors, and combining marks with no base character or too
    many on one.
    """
    yield from map(_Escaper().show, text)


class _Escaper:
    """Shows one character after another; see `escape`."""

    def __init__(self) -> None:
        # There is no base character yet.
        self._marks = _MARKS_IN_A_ROW_MAX

    def show(self, character: str) -> tuple[bool, str]:
        """Return how the next character is shown, and whether that is an escape sequence."""
        is_mark = unicodedata.category(character) in ("Mn", "Me")
        self._marks = self._marks + 1 if is_mark else 0
        selects = "\ufe00" <= character <= "\ufe0f"
        if is_mark and (self._marks > _MARKS_IN_A_ROW_MAX or selects):
            return True, _escaped(character)
        if not character.isprintable() or character in _BLANK:
            # A mark that follows would combine with the escape sequence.
            self._marks = _MARKS_IN_A_ROW_MAX
            return True, _escaped(character)
        return False, character


def quoted(text: str, columns: int, *, keep: Literal["start", "end"] = "start") -> str:
    """Return the text in quotes, escaped as in Python, with an ellipsis if it is cut.

    The part between the quotes takes at most `columns` columns of a terminal.
    """
    # Two marks may combine with a character without taking a column.
    most = columns * (_MARKS_IN_A_ROW_MAX + 1)
    part = text[:most] if keep == "start" else text[-most:]
    units = [_unit(is_escape, shown) for is_escape, shown in escape(part)]
    shown_units: list[str] = []
    for unit in units if keep == "start" else reversed(units):
        columns -= cell_len(unit)
        if columns < 0:
            break
        shown_units.append(unit)
    is_whole = len(shown_units) == len(text)
    if keep == "end":
        while shown_units and not cell_len(shown_units[-1]):
            # The base character of these marks was cut.
            shown_units.pop()
        return ("" if is_whole else "…") + f"'{''.join(reversed(shown_units))}'"
    return f"'{''.join(shown_units)}'" + ("" if is_whole else "…")


def padded(text: str, columns: int) -> str:
    """Return the text with trailing spaces, as wide as so many columns of a terminal."""
    return text + " " * (columns - cell_len(text))


def _unit(is_escape: bool, shown: str) -> str:
    # So that a backslash or quote of the text differs from an escape and from the closing quote.
    return f"\\{shown}" if not is_escape and shown in ("\\", "'") else shown


def _escaped(character: str) -> str:
    code = ord(character)
    if character in "\t\n\r":
        return repr(character)[1:-1]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
