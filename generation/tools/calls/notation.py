"""Values as text: JSON, Python literals, and objects with names without quotes."""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from tokentape.generation.tools.calls.json_text import MalformedText, read_json
from tokentape.generation.tools.calls.python_literal import read_literal

_PYTHON_TOKENS = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<open>[(\[{])|(?P<close>[)\]}])|["']""",
    re.DOTALL,
)
_PYTHON_STRINGS = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'""", re.DOTALL)
_WORD = re.compile(r"[-+\w.]+")
_BARE_NAME = re.compile(r"[^\s:{}\[\],]+")
_BARE_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False}
_BARE_WORDS |= {"None": None}
_DEPTH_MAX = 64


class IncompleteText(Exception):
    """A text ends before the value that it begins."""


class UnterminatedText(IncompleteText):
    """A text ends within a string of JSON."""


class Notation(StrEnum):
    """How values are written."""

    JSON = "json"
    PYTHON = "python"
    BARE = "bare"
    """As JSON, but names have no quotes, and strings stand as they are between two quote texts."""


def read_value(text: str, at: int, notation: Notation, quote: str = '"') -> tuple[Any, int]:
    """Return the value that begins at `at` and the index after it.

    `quote` encloses the strings of the bare notation. Raise IncompleteText if further text may
    complete the value, else MalformedText.
    """
    if at == len(text):
        raise IncompleteText
    if notation is Notation.JSON:
        return _read_json(text, at)
    if notation is Notation.PYTHON:
        return _read_python(text, at)
    return _BareReader(text, quote).value(at, depth=0)


def write_value(value: Any, notation: Notation, quote: str = '"') -> str:
    """Return a value of JSON as text."""
    if notation is Notation.PYTHON:
        return repr(value)
    if notation is Notation.JSON:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        return f"{quote}{value}{quote}"
    if isinstance(value, Mapping):
        fields = (f"{key}:{write_value(each, notation, quote)}" for key, each in value.items())
        return "{" + ",".join(fields) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write_value(each, notation, quote) for each in value) + "]"
    return json.dumps(value)


def _read_json(text: str, at: int) -> tuple[Any, int]:
    try:
        _, end = json.JSONDecoder(strict=False).raw_decode(text, at)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated string"):
            raise UnterminatedText from None
        if _may_continue(text[error.pos :]):
            raise IncompleteText from None
        read_json(text[at:])
        raise MalformedText(f"it is not JSON: {error.msg}") from None
    except RecursionError:
        raise MalformedText("it is nested too deeply") from None
    except ValueError as error:  # a number with thousands of digits
        raise MalformedText(f"it is not JSON: {error}") from None
    return read_json(text[at:end]), end


def _may_continue(rest: str) -> bool:
    """Return whether the text from an error on may be the beginning of something valid."""
    rest = rest.strip()
    words = ("true", "false", "null", "-")
    partial_escape = rest.startswith("\\") and len(rest) < len("\\u0000")
    return not rest or partial_escape or any(each.startswith(rest) for each in words)


def _read_python(text: str, at: int) -> tuple[Any, int]:
    end = _python_end(text, at)
    source = _PYTHON_STRINGS.sub(lambda found: found[0].replace("\n", "\\n"), text[at:end])
    return read_literal(source), end


def _python_end(text: str, at: int) -> int:
    if text[at] in "\"'":
        string = _PYTHON_STRINGS.match(text, at)
        if string is None:
            raise IncompleteText
        return string.end()
    if text[at] not in "([{":
        word = _WORD.match(text, at)
        if word is None:
            raise MalformedText(f"{text[at]!r} does not begin a value")
        return word.end()
    depth = 0
    for token in _PYTHON_TOKENS.finditer(text, at):
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
            if not depth:
                return token.end()
        elif not token["string"]:
            raise IncompleteText  # a quote that nothing closes yet
    raise IncompleteText


class _BareReader:
    """Reads values in the bare notation."""

    def __init__(self, text: str, quote: str) -> None:
        self._text = text
        self._quote = quote

    def value(self, at: int, *, depth: int) -> tuple[Any, int]:
        if depth > _DEPTH_MAX:
            raise MalformedText("it is nested too deeply")
        at = self._skip(at)
        if self._text.startswith(self._quote, at):
            return self._string(at)
        if self._text[at] == "{":
            return self._items(at, "}", depth)
        if self._text[at] == "[":
            return self._items(at, "]", depth)
        return self._word(at)

    def _string(self, at: int) -> tuple[str, int]:
        start = at + len(self._quote)
        end = self._text.find(self._quote, start)
        if end < 0:
            raise IncompleteText
        return self._text[start:end], end + len(self._quote)

    def _word(self, at: int) -> tuple[Any, int]:
        word = _BARE_NAME.match(self._text, at)
        if word is None:
            raise MalformedText(f"{self._text[at]!r} does not begin a value")
        if word.group() in _BARE_WORDS:
            return _BARE_WORDS[word.group()], word.end()
        if word.end() == len(self._text) or self._quote.startswith(word.group()):
            raise IncompleteText
        return read_json(word.group()), word.end()

    def _items(self, at: int, closing: str, depth: int) -> tuple[Any, int]:
        """Return the object or the array that begins at `at`."""
        fields: dict[str, Any] = {}
        items: list[Any] = []
        at = self._skip(at + 1)
        while self._text[at] != closing:
            if closing == "}":
                name, at = self._name(at)
                if name in fields:
                    raise MalformedText(f"{name!r} is given twice")
                fields[name], at = self.value(at, depth=depth + 1)
            else:
                item, at = self.value(at, depth=depth + 1)
                items.append(item)
            at = self._skip(at)
            if self._text[at] == ",":
                at = self._skip(at + 1)
            elif self._text[at] != closing:
                raise MalformedText(
                    f"a comma or {closing} was expected at {self._text[at:][:12]!r}"
                )
        return (fields if closing == "}" else items), at + 1

    def _name(self, at: int) -> tuple[str, int]:
        if self._text.startswith(self._quote, at):
            name, at = self._string(at)
        elif found := _BARE_NAME.match(self._text, at):
            name, at = found.group(), found.end()
        else:
            raise MalformedText(f"{self._text[at]!r} does not begin a name")
        at = self._skip(at)
        if self._text[at] != ":":
            raise MalformedText(f"a colon was expected after {name!r}")
        return name, self._skip(at + 1)

    def _skip(self, at: int) -> int:
        """Return the index of the next character that is no blank. Raise IncompleteText."""
        while at < len(self._text) and self._text[at].isspace():
            at += 1
        if at == len(self._text):
            raise IncompleteText
        return at
