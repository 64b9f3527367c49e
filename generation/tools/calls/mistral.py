"""The call format of Mistral models."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tokentape.generation.tools.calls.call_format import CallFormat, OpenCall
from tokentape.generation.tools.calls.json_text import (
    JsonEndFinder,
    MalformedText,
    read_items,
    read_json,
)
from tokentape.generation.tools.calls.parsed_call import (
    ParsedCall,
    call_of_object,
    checked_call,
    malformed_call,
)

_TAG = "[TOOL_CALLS]"
_HEAD = re.compile(
    r"\s*(?:(?P<name>[^\s\[\]{}]{1,200})\s*"
    r"(?:\[CALL_ID\]\s*[^\s\[{]{1,100}\s*)?(?:\[ARGS\]\s*)?(?=\{)|(?=[\[{]))"
)


class Mistral(CallFormat):
    """`[TOOL_CALLS]` and an array of objects, or a tool's name and an object of arguments."""

    rule = "write [TOOL_CALLS] and a JSON array with the call"
    opening = re.escape(_TAG)
    endings = ("}", "]")

    def open_call(self, opening: re.Match[str]) -> OpenCall:
        return _BodyEnd(opening.end())

    def parse(self, text: str, *, closed: bool) -> tuple[ParsedCall, ...]:
        body = text.removeprefix(_TAG)
        head = _HEAD.match(body)
        written = body[head.end() :].strip() if head else body.strip()
        try:
            value = read_json(written)
        except MalformedText as error:
            when = "the call" if closed else "the reply ended before the call did, which"
            return (malformed_call(text, f"{when} cannot be read: {error}"),)
        if head and head["name"]:
            return (checked_call(head["name"], value, text, self._tools),)
        if not isinstance(value, list):
            return (call_of_object(value, text, self._tools),)
        if not value:
            return (malformed_call(text, f"the array of calls after {_TAG} is empty"),)
        return tuple(call_of_object(each, item, self._tools) for each, item in read_items(written))

    def example(self, name: str, arguments: Mapping[str, Any]) -> str:
        calls = [{"name": name, "arguments": arguments}]
        return f"{_TAG} {json.dumps(calls, ensure_ascii=False)}"


class _BodyEnd:
    def __init__(self, start: int) -> None:
        self._start = start
        self._json: JsonEndFinder | None = None

    def find_end(self, text: str) -> int | None:
        if self._json is None:
            head = _HEAD.match(text, self._start)
            if head is None:
                return None
            self._json = JsonEndFinder(head.end())
        return self._json.find(text)
