"""The call format of Hermes and Qwen models."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tokentape.generation.tools.arguments import fit_text
from tokentape.generation.tools.calls.call_format import CallFormat, OpenCall
from tokentape.generation.tools.calls.json_text import MalformedText, read_items, read_json
from tokentape.generation.tools.calls.parsed_call import (
    ParsedCall,
    call_of_object,
    checked_call,
    malformed_call,
)
from tokentape.generation.tools.interface import ToolInterface

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_CLOSE = "<function=", "</function>"
_PARAMETER, _PARAMETER_CLOSE = "<parameter=", "</parameter>"
_MARKERS = re.compile(rf'\\.|["\n]|{_CLOSE}', re.DOTALL)
_FENCE = re.compile(r"```\w{0,20}")
_TAGS = re.compile(r"<function=([^>\n]+)>(.*)</function>", re.DOTALL)
_VALUES = re.compile(
    r"\s*<parameter=([^>\n]+)>(.*?)</parameter>(?=\s*(?:<parameter=|\Z))", re.DOTALL
)


class Hermes(CallFormat):
    """JSON, or Qwen3-Coder's tags, between `<tool_call>` and `</tool_call>`."""

    rule = "write it as JSON between <tool_call> and </tool_call>"
    opening = f"{_OPEN}|{_FUNCTION}"
    endings = (_CLOSE, _FUNCTION_CLOSE)

    def __init__(self, tools: ToolInterface) -> None:
        super().__init__(tools)
        self._schemas = {schema["name"]: schema for schema in tools.get_available_tools()}

    def open_call(self, opening: re.Match[str]) -> OpenCall:
        if opening.group() == _FUNCTION:
            return _TagsEnd(opening.end(), _FUNCTION_CLOSE)
        return _TaggedEnd(opening.end())

    def parse(self, text: str, *, closed: bool) -> tuple[ParsedCall, ...]:
        body = text.removeprefix(_OPEN).strip()
        body = body.removesuffix(_CLOSE).strip()
        fence = _FENCE.match(body)
        if fence:
            body = body[fence.end() :].removesuffix("```").strip()
        try:
            if body.startswith(_FUNCTION):
                return (self._tags(body, text),)
            value = read_json(body)
        except MalformedText as error:
            when = "the call" if closed else f"the reply ended before {_CLOSE}, and the call"
            return (malformed_call(text, f"{when} cannot be read: {error}"),)
        if not isinstance(value, list):
            return (call_of_object(value, text, self._tools),)
        if not value:
            return (malformed_call(text, "the array of calls is empty"),)
        return tuple(call_of_object(each, item, self._tools) for each, item in read_items(body))

    def example(self, name: str, arguments: Mapping[str, Any]) -> str:
        call = {"name": name, "arguments": arguments}
        return f"{_OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{_CLOSE}"

    def _tags(self, body: str, text: str) -> ParsedCall:
        tags = _TAGS.fullmatch(body)
        if tags is None:
            raise MalformedText(
                f"after {_FUNCTION}name> write {_PARAMETER}name>value{_PARAMETER_CLOSE} for "
                f"each argument, and {_FUNCTION_CLOSE} at the end"
            )
        name, written = tags[1].strip(), tags[2].strip()
        schema = self._schemas.get(name, {"parameters": {"properties": {}}})
        parameters = schema["parameters"]["properties"]
        arguments: dict[str, Any] = {}
        at = 0
        while at < len(written):
            value = _VALUES.match(written, at)
            if value is None or value[1] in arguments:
                raise MalformedText(
                    f"write each argument once, as {_PARAMETER}name>value{_PARAMETER_CLOSE}"
                )
            bare = value[2].removeprefix("\n").removesuffix("\n")
            arguments[value[1]] = fit_text(bare, parameters.get(value[1], {"type": "string"}))
            at = value.end()
        return checked_call(name, arguments, text, self._tools)


class _TaggedEnd:
    """A call after `<tool_call>`; its first characters show whether it is JSON or tags."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._inner: OpenCall | None = None

    def find_end(self, text: str) -> int | None:
        if self._inner is None:
            body = text[self._start :].lstrip()
            if _FUNCTION.startswith(body[: len(_FUNCTION)]) and len(body) < len(_FUNCTION):
                return None
            tags = body.startswith(_FUNCTION)
            self._inner = _TagsEnd(self._start, _CLOSE) if tags else _JsonBodyEnd(self._start)
        return self._inner.find_end(text)


class _JsonBodyEnd:
    """A JSON call, up to the closing tag outside of strings.

    A string with the closing tag and a line break after it is unterminated: the call ends at the
    tag.
    """

    def __init__(self, start: int) -> None:
        self._at = start
        self._in_string = False
        self._tag_in_string: int | None = None

    def find_end(self, text: str) -> int | None:
        while True:
            mark = _MARKERS.search(text, self._at)
            if mark is None:
                # The text may end within a tag or an escape.
                self._at = max(self._at, len(text) - len(_CLOSE))
                return None
            self._at = mark.end()
            if mark.group() == '"':
                self._in_string = not self._in_string
                self._tag_in_string = None
            elif mark.group() == "\n":
                if self._tag_in_string is not None:
                    return self._tag_in_string
            elif mark.group() == _CLOSE:
                if not self._in_string:
                    return self._at
                self._tag_in_string = self._tag_in_string or self._at


class _TagsEnd:
    """A call in tags, up to the closing tag outside of a parameter's value."""

    def __init__(self, start: int, tag: str) -> None:
        self._start = start
        self._at = start
        self._tag = tag

    def find_end(self, text: str) -> int | None:
        while True:
            found = text.find(self._tag, self._at)
            if found < 0:
                self._at = max(self._at, len(text) - len(self._tag))
                return None
            self._at = found + len(self._tag)
            before = text[self._start : found]
            in_value = before.count(_PARAMETER) > before.count(_PARAMETER_CLOSE)
            if not in_value or before.rstrip().endswith(_FUNCTION_CLOSE):
                return self._at
