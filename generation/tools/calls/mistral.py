"""Calls of Mistral models: `[TOOL_CALLS]` and a list of objects, or a name and its arguments."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tokentape.generation.tools.calls.call_format import BegunCall, CallFormat
from tokentape.generation.tools.calls.json_text import BrokenText, JsonEnd, read_items, read_json
from tokentape.generation.tools.calls.parsed_call import ParsedCall, broken, call_of_object, checked

_TAG = "[TOOL_CALLS]"
_HEAD = re.compile(
    r"\s*(?:(?P<name>[^\s\[\]{}]{1,200})\s*"
    r"(?:\[CALL_ID\]\s*[^\s\[{]{1,100}\s*)?(?:\[ARGS\]\s*)?(?=\{)|(?=[\[{]))"
)


class Mistral(CallFormat):
    rule = "write [TOOL_CALLS] and a JSON list with the call"
    opening = re.escape(_TAG)
    endings = ("}", "]")

    def begin(self, opening: re.Match[str]) -> BegunCall:
        return _BodyEnd(opening.end())

    def parse(self, text: str, *, closed: bool) -> tuple[ParsedCall, ...]:
        body = text.removeprefix(_TAG)
        head = _HEAD.match(body)
        written = body[head.end() :].strip() if head else body.strip()
        try:
            value = read_json(written)
        except BrokenText as error:
            when = "the call" if closed else "the reply ended before the call did, which"
            return (broken(text, f"{when} cannot be read: {error}"),)
        if head and head["name"]:
            return (checked(head["name"], value, text, self._tools),)
        if not isinstance(value, list):
            return (call_of_object(value, text, self._tools),)
        if not value:
            return (broken(text, f"there is no call in the list behind {_TAG}"),)
        return tuple(call_of_object(each, part, self._tools) for each, part in read_items(written))

    def example(self, name: str, arguments: Mapping[str, Any]) -> str:
        calls = [{"name": name, "arguments": arguments}]
        return f"{_TAG} {json.dumps(calls, ensure_ascii=False)}"


class _BodyEnd:
    def __init__(self, start: int) -> None:
        self._start = start
        self._json: JsonEnd | None = None

    def end(self, text: str) -> int | None:
        if self._json is None:
            head = _HEAD.match(text, self._start)
            if head is None:
                return None
            self._json = JsonEnd(head.end())
        return self._json.find(text)
