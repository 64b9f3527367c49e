"""Text of models made harmless to look at: whatever cannot be seen is spelt out."""

import unicodedata
from collections.abc import Iterator
from typing import Literal

from rich.cells import cell_len

# Printable by Unicode's books, and blank on every screen.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_MARKS_IN_A_ROW_MAX = 2
# No sentence, name or command that is meant to be read is longer.
_CHARACTERS_MAX = 5_000


def visible(text: str) -> str:
    """The text in one line of printable characters; backslashes stay single.

    What is too long for anybody to read is cut, and says so.
    """
    line = "".join(shown for _, shown in escape(text[:_CHARACTERS_MAX]))
    return line if len(text) <= _CHARACTERS_MAX else f"{line}… ({len(text):,} characters)"


def escape(text: str) -> Iterator[tuple[bool, str]]:
    """Each character as it is shown, and whether that is an escape in its place.

    Escaped are control and format characters (ANSI, line ends, direction, zero width), surrogates,
    blanks but the space, variation selectors, and marks that have nothing, or too much, to sit on.
    """
    marks = _MARKS_IN_A_ROW_MAX
    for character in text:
        is_mark = unicodedata.category(character) in ("Mn", "Me")
        marks = marks + 1 if is_mark else 0
        selects = "\ufe00" <= character <= "\ufe0f"
        if is_mark and (marks > _MARKS_IN_A_ROW_MAX or selects):
            yield True, _escaped(character)
        elif not character.isprintable() or character in _BLANK:
            yield True, _escaped(character)
            # A mark behind it would sit on the escape.
            marks = _MARKS_IN_A_ROW_MAX
        else:
            yield False, character


def quoted(text: str, columns: int, *, keep: Literal["start", "end"] = "start") -> str:
    """The text in quotes, as Python would write it, with an ellipsis where it is cut.

    What is between the quotes takes at most that many columns of a terminal.
    """
    # Two marks may sit on a character and take no column.
    most = columns * (_MARKS_IN_A_ROW_MAX + 1)
    part = text[:most] if keep == "start" else text[-most:]
    units = [_unit(is_escape, shown) for is_escape, shown in escape(part)]
    kept: list[str] = []
    for unit in units if keep == "start" else reversed(units):
        columns -= cell_len(unit)
        if columns < 0:
            break
        kept.append(unit)
    whole = len(kept) == len(text)
    if keep == "end":
        while kept and not cell_len(kept[-1]):
            # The character below these marks was cut.
            kept.pop()
        return ("" if whole else "…") + f"'{''.join(reversed(kept))}'"
    return f"'{''.join(kept)}'" + ("" if whole else "…")


def padded(text: str, columns: int) -> str:
    """The text with spaces behind it, as wide as that many columns of a terminal."""
    return text + " " * (columns - cell_len(text))


def _unit(is_escape: bool, shown: str) -> str:
    # A backslash and a quote are told from those of an escape and of the end.
    return f"\\{shown}" if not is_escape and shown in ("\\", "'") else shown


def _escaped(character: str) -> str:
    code = ord(character)
    if character in "\t\n\r":
        return repr(character)[1:-1]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
