"""Plain values compared field by field: what is named is the smallest part that differs."""

import json
import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from tokentape.replay.run_diff.diff_types import UnequalField

_MISSING = object()
_PLAIN_NAME = re.compile(r"[^\s.\"\[\]{}]+")


def unequal_fields(path: str, a: Any, b: Any) -> tuple[UnequalField, ...]:
    """Every field that differs, with the values of both sides.

    Paths are dotted, places in lists count from zero, and names with dots are quoted:
    `statistics."model.norm.weight".shape.0`. Numbers are compared exactly, and 1, 1.0 and true are
    three things. Names come in alphabetical order, so that neither side decides about it.
    """
    found = []
    # No recursion: a result may be nested as deep as its tool likes.
    left = [(path, a, b)]
    while left:
        path, a, b = left.pop()
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names = sorted(a.keys() | b.keys(), reverse=True)
            left += [
                (_joined(path, _spelled(name)), a.get(name, _MISSING), b.get(name, _MISSING))
                for name in names
            ]
        elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
            pairs = list(enumerate(zip_longest(a, b, fillvalue=_MISSING)))
            left += [(_joined(path, str(place)), *pair) for place, pair in reversed(pairs)]
        elif not _same(a, b):
            found.append(_unequal(path, a, b))
    return tuple(found)


def unequal_texts(path: str, a: str, b: str) -> tuple[UnequalField, ...]:
    """As `unequal_fields`, of texts that may be JSON; whole where one is not, or where the same is
    only spelled otherwise."""
    if a == b:
        return ()
    parsed_a, parsed_b = _parsed(a), _parsed(b)
    whole = (_unequal(path, a, b),)
    if parsed_a is None or parsed_b is None:
        return whole
    return unequal_fields(path, parsed_a, parsed_b) or whole


def _unequal(path: str, a: Any, b: Any) -> UnequalField:
    return UnequalField(
        field=path,
        a=None if a is _MISSING else a,
        b=None if b is _MISSING else b,
        lacking="a" if a is _MISSING else "b" if b is _MISSING else "",
    )


def _parsed(text: str) -> Any:
    """An object or a list; None for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _spelled(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        # The sign of a zero counts, and what is not a number is the same as itself.
        return repr(a) == repr(b)
    return type(a) is type(b) and bool(a == b)
