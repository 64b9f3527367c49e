"""Parse JSON that a model writes: find the end of a growing value, explain errors."""

import json
import math
import re
from typing import Any

_DEPTH_MAX = 64
_MARKERS = re.compile(r'["\\{}\[\]]')
_CLOSING = {"{": "}", "[": "]"}
_IN_STRING = re.compile(r'["\\]')


class MalformedText(Exception):
    """A text cannot be parsed; the message tells a model how to write it."""


class JsonEndFinder:
    """Finds the end of the object or array that begins at `start` of a growing text.

    It looks at brackets and strings only, so text that is not valid JSON ends as well: where its
    outermost bracket closes, or at the first bracket that closes the wrong one.
    """

    def __init__(self, start: int) -> None:
        self._at = start
        self._open: list[str] = []
        self._in_string = False

    def find(self, text: str) -> int | None:
        """Return the index after the value's last character; None if it is not complete."""
        while True:
            mark = (_IN_STRING if self._in_string else _MARKERS).search(text, self._at)
            if mark is None:
                self._at = len(text)
                return None
            character = mark.group()
            if character == "\\":
                if mark.end() == len(text):  # the escaped character is still missing
                    self._at = mark.start()
                    return None
                self._at = mark.end() + 1
                continue
            self._at = mark.end()
            if character == '"':
                self._in_string = not self._in_string
            elif character in _CLOSING:
                self._open.append(_CLOSING[character])
            elif self._open.pop() != character or not self._open:
                return self._at


def read_json(text: str) -> Any:
    """Return the value of a JSON text. Raise MalformedText, which says how to write it."""
    try:
        return json.loads(
            text,
            # JSON forbids line breaks in strings, but their meaning is clear.
            strict=False,
            parse_constant=_reject_constant,
            object_pairs_hook=_unique_names,
        )
    except json.JSONDecodeError as error:
        raise MalformedText(f"it is not JSON: {_correction(text, error)}") from None
    except RecursionError:
        raise MalformedText("it is nested too deeply") from None
    except ValueError as error:  # a number with thousands of digits
        raise MalformedText(f"it is not JSON: {error}") from None


def read_items(text: str) -> list[tuple[Any, str]]:
    """Return the items of a valid JSON array, each with its source text."""
    decoder = json.JSONDecoder(strict=False)
    items = []
    at = _skip(text, text.index("[") + 1)
    while text[at] != "]":
        value, end = decoder.raw_decode(text, at)
        items.append((value, text[at:end]))
        at = _skip(text, end)
    return items


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n,":
        at += 1
    return at


def check_json_value(value: Any) -> None:
    """Raise MalformedText for non-finite numbers, unpaired surrogates and nesting too deep."""
    level = [value]
    for _ in range(_DEPTH_MAX):
        deeper: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                deeper += [*each, *each.values()]
            elif isinstance(each, list):
                deeper += each
            elif isinstance(each, float) and not math.isfinite(each):
                raise MalformedText(f"a number is too large, or is not a number: {each}")
            elif isinstance(each, str) and not _is_text(each):
                raise MalformedText("a string has half of a surrogate pair, not a character")
        if not deeper:
            return
        level = deeper
    raise MalformedText(f"it is nested more than {_DEPTH_MAX} levels deep")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reject_constant(name: str) -> None:
    raise MalformedText(f"it is not JSON: JSON has no {name}")


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedText(f"{twice!r} is given twice")
    return fields


def _correction(text: str, error: json.JSONDecodeError) -> str:
    rest, before = text[error.pos :].lstrip(), text[: error.pos].rstrip()
    if not rest:
        wanted = "it ends too early, with a bracket or a quote that is never closed"
    elif error.msg.startswith("Unterminated string"):
        wanted = "a string is not closed with a double quote"
    elif error.msg.startswith("Invalid \\escape"):
        wanted = "a backslash inside a string is written twice"
    elif error.msg.startswith("Extra data"):
        wanted = "there is more after the end of the value"
    elif rest[0] == "'":
        wanted = "names and strings are written in double quotes, not in single ones"
    elif rest[0] in "]}" and before.endswith(","):
        wanted = "there is no comma before a closing bracket"
    elif re.match(r"(True|False|None)\b", rest):
        wanted = "JSON writes true, false and null, in lower case"
    elif error.msg.startswith("Expecting property name"):
        wanted = "names are written in double quotes"
    else:
        wanted = f"{error.msg.removeprefix('Expecting ')} was expected"
    return f"{wanted} (at character {error.pos + 1}: {_excerpt(text, error.pos)})"


def _excerpt(text: str, at: int) -> str:
    return repr(text[max(at - 12, 0) : at + 12])
