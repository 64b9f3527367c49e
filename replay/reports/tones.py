"""The tones of lines, which a terminal shows as colours."""

from collections.abc import Sequence
from typing import Literal

Tone = Literal["plain", "good", "bad", "note", "a", "b"]
"""`a` and `b` are the two sides of a difference."""

Line = tuple[str, Tone]
"""A line of text without its end, and its tone."""

SCREEN_LINES = 20
"""Lines after which a report ends with its verdict again: the first has left the screen."""


def with_verdict_last(lines: Sequence[Line], closing: Sequence[Line]) -> list[Line]:
    """Return the lines, with the closing ones after an empty line if there are many."""
    if len(lines) <= SCREEN_LINES:
        return list(lines)
    return [*lines, ("", "plain"), *closing]
