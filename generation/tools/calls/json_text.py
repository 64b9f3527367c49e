"""JSON as models write it: where a value ends that is still being written, and what is wrong."""

import json
import math
import re
from typing import Any

_DEPTH_MAX = 64
_MARKS = re.compile(r'["\\{}\[\]]')
_CLOSING = {"{": "}", "[": "]"}
_IN_STRING = re.compile(r'["\\]')


class BrokenText(Exception):
    """A text cannot be read as what it should be; the message tells a model how to write it."""


class JsonEnd:
    """Finds where the object or list that begins at `start` ends, reading on as the text grows.

    Only brackets and strings are looked at, so that a value that is no JSON has an end as well:
    where its brackets are closed, or closed by a wrong one.
    """

    def __init__(self, start: int) -> None:
        self._at = start
        self._open: list[str] = []
        self._in_string = False

    def find(self, text: str) -> int | None:
        """Where the value ends in this text, None as long as it goes on."""
        while True:
            mark = (_IN_STRING if self._in_string else _MARKS).search(text, self._at)
            if mark is None:
                self._at = len(text)
                return None
            character = mark.group()
            if character == "\\":
                if mark.end() == len(text):  # what is escaped has not come yet
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
    """The value of a JSON text. Raises BrokenText, which says what JSON wants instead."""
    try:
        return json.loads(
            text,
            # A line break inside a string is no JSON, and cannot be mistaken either.
            strict=False,
            parse_constant=_refuse_constant,
            object_pairs_hook=_once_each,
        )
    except json.JSONDecodeError as error:
        raise BrokenText(f"it is no JSON: {_what_json_wants(text, error)}") from None
    except RecursionError:
        raise BrokenText("it is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise BrokenText(f"it is no JSON: {error}") from None


def read_items(text: str) -> list[tuple[Any, str]]:
    """The items of a JSON list that `read_json` can read, each with its own text."""
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
    """Raises BrokenText for infinite numbers, halves of surrogate pairs, and depths of nesting."""
    level = [value]
    for _ in range(_DEPTH_MAX):
        deeper: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                deeper += [*each, *each.values()]
            elif isinstance(each, list):
                deeper += each
            elif isinstance(each, float) and not math.isfinite(each):
                raise BrokenText(f"a number is too large, or none: {each}")
            elif isinstance(each, str) and not _is_text(each):
                raise BrokenText("a text holds half of a surrogate pair, which is no character")
        if not deeper:
            return
        level = deeper
    raise BrokenText(f"it is nested more than {_DEPTH_MAX} levels deep")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise BrokenText(f"it is no JSON: JSON has no {name}")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BrokenText(f"{twice!r} is given twice")
    return fields


def _what_json_wants(text: str, error: json.JSONDecodeError) -> str:
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
        wanted = "names and strings stand in double quotes, not in single ones"
    elif rest[0] in "]}" and before.endswith(","):
        wanted = "there is no comma before a closing bracket"
    elif re.match(r"(True|False|None)\b", rest):
        wanted = "it has true, false and null, in lower case"
    elif error.msg.startswith("Expecting property name"):
        wanted = "names stand in double quotes"
    else:
        wanted = f"{error.msg.removeprefix('Expecting ')} was expected"
    return f"{wanted} (at character {error.pos + 1}: {_excerpt(text, error.pos)})"


def _excerpt(text: str, at: int) -> str:
    return repr(text[max(at - 12, 0) : at + 12])
