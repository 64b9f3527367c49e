"""Comparison of JSON values field by field, down to the smallest parts that differ."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

MISSING = "missing"
"""Written for a side without the field; no JSON value is written so."""

_MISSING = object()
_TEXT_CHARS_MAX = 400
_TEXT_CHARS_BEFORE = 80
_PLAIN_NAME = re.compile(r"[^\s.\"\[\]{}]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnequalField:
    """A field with its value in `a` and in `b`."""

    field: str
    """Dotted path, such as `statistics."model.norm.weight".shape.0`."""
    a: Any
    b: Any
    missing_in: str = ""
    """The side without the field, `a` or `b`; empty where both have it."""


def unequal_fields(path: str, a: Any, b: Any) -> tuple[UnequalField, ...]:
    """Return every field that differs, in alphabetical order of its path.

    Paths begin with `path`. They are dotted, list indices count from zero, and names with dots are
    quoted. Numbers are compared exactly; 1, 1.0 and true are three different values.
    """
    found = []
    # A stack instead of recursion: a tool may return values of any depth.
    stack = [(path, a, b)]
    while stack:
        path, a, b = stack.pop()
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names = sorted(a.keys() | b.keys(), reverse=True)
            stack += [
                (_joined(path, _quoted(name)), a.get(name, _MISSING), b.get(name, _MISSING))
                for name in names
            ]
        elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
            pairs = list(enumerate(zip_longest(a, b, fillvalue=_MISSING)))
            stack += [(_joined(path, str(index)), *pair) for index, pair in reversed(pairs)]
        elif not _same(a, b):
            found.append(_unequal(path, a, b))
    return tuple(found)


def unequal_texts(path: str, a: str, b: str) -> tuple[UnequalField, ...]:
    """Return what differs between two texts, field by field where both are JSON.

    The two whole texts are one field where one of them is not a JSON object or list, and where they
    are the same JSON written in two ways.
    """
    if a == b:
        return ()
    parsed_a, parsed_b = _parsed(a), _parsed(b)
    whole = (_unequal(path, a, b),)
    if parsed_a is None or parsed_b is None:
        return whole
    return unequal_fields(path, parsed_a, parsed_b) or whole


def json_excerpts(field: UnequalField) -> tuple[str, str]:
    """Return both sides as JSON; of long ones, excerpts around the first difference."""
    a, b = (
        MISSING if field.missing_in == side else json.dumps(value, ensure_ascii=False)
        for side, value in (("a", field.a), ("b", field.b))
    )
    if max(len(a), len(b)) <= _TEXT_CHARS_MAX:
        return a, b
    start = max(0, first_unequal_index(a, b) - _TEXT_CHARS_BEFORE)
    return excerpt(a, start, _TEXT_CHARS_MAX), excerpt(b, start, _TEXT_CHARS_MAX)


def _unequal(path: str, a: Any, b: Any) -> UnequalField:
    return UnequalField(
        field=path,
        a=None if a is _MISSING else a,
        b=None if b is _MISSING else b,
        missing_in="a" if a is _MISSING else "b" if b is _MISSING else "",
    )


def _parsed(text: str) -> Any:
    """Return the JSON object or list in a text, or None for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _quoted(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        # By their digits: -0.0 differs from 0.0, and NaN equals NaN.
        return repr(a) == repr(b)
    return type(a) is type(b) and bool(a == b)


def first_unequal_index(a: str, b: str) -> int:
    """Return the index of the first character that differs, at most the shorter length."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(a), len(b)))


def excerpt(text: str, start: int, length: int) -> str:
    """Return `length` characters from `start` on, with an ellipsis where text is left out."""
    end = start + length
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
