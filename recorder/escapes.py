"""Show text of models and tools safely: characters that cannot be seen are escaped."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

from rich.cells import cell_len

# Printable according to Unicode, and blank or without any effect on every screen.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
_MARKS_IN_A_ROW_MAX = 2
# Longer than any sentence, name or command.
_CHARACTERS_MAX = 5_000

# Letters, digits and punctuation that are shown as they are, wherever they are: most of any text.
_PLAIN = (
    " -~\xa1-\xac\xae-\u02ff\u0400-\u0482\u048a-\u052f\u0621-\u064a"
    "\u3001-\u3020\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff5e"
)
_PLAIN_OR_ONE = re.compile(f"[{_PLAIN}]+|.", re.DOTALL)
_ALL_PLAIN = re.compile(f"[{_PLAIN}]*")

_NON_JOINER, _JOINER = "\u200c", "\u200d"
_TEXT_STYLE, _EMOJI_STYLE = "\ufe0e", "\ufe0f"
_VIRAMA = 9
"""The canonical combining class of the signs that join two consonants."""
_SKIN_TONES = frozenset("\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
# Characters with an emoji style that are no symbols.
_ALSO_EMOJI = frozenset("#*0123456789\u203c\u2049\u2139\u3030")


def visible(text: str) -> str:
    """Return the text as one line of printable characters; backslashes stay single.

    A text of more than 5,000 characters is cut, and its length is appended.
    """
    line = single_line(text[:_CHARACTERS_MAX])
    return line if len(text) <= _CHARACTERS_MAX else f"{line}… ({len(text):,} characters)"


def single_line(text: str) -> str:
    """Return the whole text as one line of printable characters; backslashes stay single."""
    if _ALL_PLAIN.fullmatch(text):
        return text
    return "".join(shown for _, shown in escape(text))


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
        for part in _PLAIN_OR_ONE.findall(piece):
            if part in "\n\t":
                self._cell = _Escaper()
                shown.append(part)
            elif len(part) > 1:
                self._cell.pass_plain(part)
                shown.append(part)
            else:
                shown.append(self._cell.show(part)[1])
        return "".join(shown)


def escape(text: str) -> Iterator[tuple[bool, str]]:
    """Yield each character as it is shown, and whether that is an escape sequence.

    Escaped are control and format characters (ANSI, line ends, direction, zero width, tags),
    surrogates, blanks except the space, variation selectors, and combining marks with no base
    character or too many on one. Kept are what emoji and some scripts are written with: one
    variation selector and joiner after an emoji, and joiners after a virama or an Arabic letter
    (as in RFC 5892, appendix A).
    """
    yield from map(_Escaper().show, text)


class _Escaper:
    """Shows one character after another; see `escape`."""

    def __init__(self) -> None:
        # There is no base character yet.
        self._marks = _MARKS_IN_A_ROW_MAX
        self._before = ""

    def show(self, character: str) -> tuple[bool, str]:
        """Return how the next character is shown, and whether that is an escape sequence."""
        if self._belongs(character):
            self._before = character
            return False, character
        is_mark = unicodedata.category(character) in ("Mn", "Me")
        self._marks = self._marks + 1 if is_mark else 0
        too_many = is_mark and (self._marks > _MARKS_IN_A_ROW_MAX or _selects(character))
        if too_many or not character.isprintable() or character in _BLANK:
            # A mark that follows would combine with the escape sequence.
            self._marks = _MARKS_IN_A_ROW_MAX
            self._before = ""
            return True, _escaped(character)
        self._before = character
        return False, character

    def pass_plain(self, text: str) -> None:
        """Take note of plain characters, at least one, that are shown as they are."""
        self._marks = 0
        self._before = text[-1]

    def _belongs(self, character: str) -> bool:
        """Return whether an invisible character is a part of the writing before it."""
        before = self._before
        if not before or character not in (_NON_JOINER, _JOINER, _TEXT_STYLE, _EMOJI_STYLE):
            return False
        category = unicodedata.category(before)
        if character in (_TEXT_STYLE, _EMOJI_STYLE):
            return category in ("So", "Sm") or before in _ALSO_EMOJI
        if unicodedata.combining(before) == _VIRAMA:
            return True
        if character == _NON_JOINER:
            return unicodedata.bidirectional(before) == "AL"
        return category == "So" or before == _EMOJI_STYLE or before in _SKIN_TONES


def _selects(character: str) -> bool:
    """Return whether a character is a variation selector."""
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


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
