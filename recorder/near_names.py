"""Hints for a name that is not known: the known names that are spelled alike."""

import difflib
from collections.abc import Iterable

_CHARS_MAX = 200
"""Characters of a name that are compared: the time grows with their square."""


def nearest(name: object, names: Iterable[str], *, quote: bool = True) -> str:
    """Return a hint such as ` (did you mean 'a' or 'b'?)`; "" if no name is similar.

    Capitals do not matter. Without `quote`, the names have no quotes, for a shell.
    """
    known = {each.lower(): each for each in names}
    close = difflib.get_close_matches(str(name)[:_CHARS_MAX].lower(), list(known), n=2)
    found = [known[each] for each in close]
    shown = [repr(each) if quote else each for each in found]
    return f" (did you mean {' or '.join(shown)}?)" if shown else ""
