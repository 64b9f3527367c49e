"""Literal texts of a chat template: what two of them share, and patterns that match them."""

import re
from functools import lru_cache
from itertools import takewhile

ID = "⟨id⟩"
"""Stands in a literal for the id of a call."""

_TOKENS = re.compile(r"<[^<>\s\"'=]{1,80}>|\[/?[A-Z][A-Z_]*\]|\s+|\w+|.", re.DOTALL)
_BLANKS_AND_NUMBERS = re.compile(r"(\s+|\d+|⟨id⟩|(?<=>)(?=<))")
_MARKER = re.compile(r"<[^\s<>]|[^\s<>]>|\[[A-Z_]{3}|\||([<>#@])\1")
_ADJACENT_BLANKS = re.compile(r"(?:\\s\*){2,}")
_LAST_TAG = re.compile(r"(<[^<>\s]{1,80}>|\[[A-Z_]+\])\s*\Z")


def common_prefix(left: str, right: str) -> str:
    """Return the longest common beginning of two texts that divides no tag and no word."""
    return "".join(_shared(_TOKENS.findall(left), _TOKENS.findall(right)))


def common_suffix(left: str, right: str) -> str:
    """Return the longest common end of two texts that divides no tag and no word."""
    shared = _shared(_TOKENS.findall(left)[::-1], _TOKENS.findall(right)[::-1])
    return "".join(shared[::-1])


def _shared(left: list[str], right: list[str]) -> list[str]:
    pairs = zip(left, right, strict=False)
    return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def is_marker(literal: str) -> bool:
    """Return whether a literal has a tag, which ordinary text does not contain."""
    return _MARKER.search(literal) is not None


def last_tag(literal: str) -> str:
    """Return the tag with which a literal ends, apart from blanks; "" if it ends otherwise."""
    found = _LAST_TAG.search(literal)
    return found[1] if found else ""


def pattern_of(literal: str) -> str:
    """Return a pattern for a literal, in which blanks, numbers and ids may differ."""
    return rf"\s*{_core(literal)}\s*"


@lru_cache(256)
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a compiled pattern, in which adjacent patterns of blanks are one.

    Several in sequence take a power of the time, for a text with many blanks.
    """
    return re.compile(_ADJACENT_BLANKS.sub(lambda _: r"\s*", pattern))


def pattern_before_value(literal: str) -> str:
    """Return a pattern for a literal before a value of plain text.

    Blanks after the literal belong to the value, except those that the literal has itself.
    """
    blanks = literal[len(literal.rstrip()) :]
    return rf"\s*{_core(literal)}{_optional(blanks)}" if literal.strip() else _optional(blanks)


def pattern_after_value(literal: str) -> str:
    """Return a pattern for a literal after a value of plain text; see `pattern_before_value`."""
    blanks = literal[: len(literal) - len(literal.lstrip())]
    return rf"{_optional(blanks)}{_core(literal)}"


def _optional(blanks: str) -> str:
    return f"(?:{re.escape(blanks)})?" if blanks else ""


def _core(literal: str) -> str:
    pieces = _BLANKS_AND_NUMBERS.split(literal.strip())
    return "".join(
        _between(piece) if index % 2 else re.escape(piece) for index, piece in enumerate(pieces)
    )


def _between(piece: str) -> str:
    if piece == ID:
        return r"[\w.:-]{1,100}"
    return r"\d+" if piece.isdecimal() else r"\s*"


def may_begin(text: str, literal: str) -> bool:
    """Return whether the text is a beginning of the literal, apart from blanks and numbers."""
    written, wanted = _compact(text), _compact(literal)
    head, has_id, tail = wanted.partition(ID)
    if not has_id or not written.startswith(head):
        return wanted.startswith(written) or bool(has_id and head.startswith(written))
    return tail.startswith(re.sub(r"\A[\w.:-]{0,100}", "", written.removeprefix(head)))


def _compact(text: str) -> str:
    return re.sub(r"\d+", "0", re.sub(r"\s+", "", text))
