"""The call format of Llama 3."""

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
from tokentape.generation.tools.calls.parsed_call import ParsedCall, call_of_object, malformed_call

_TAG = "<|python_tag|>"
_FIELDS = {"name", "parameters", "arguments", "type", "function", "id"}
_LOOKS_LIKE_ARGUMENTS = re.compile(r"""["'](?:parameters|arguments)["']\s*:""")


class Llama3(CallFormat):
    """A JSON object with `name` and `parameters`, with or without `<|python_tag|>` before it."""

    rule = "write it as a JSON object, and nothing else"
    opening = (
        re.escape(_TAG)
        + r"""|\{\s{0,40}["']?(?:name|type|function|parameters|arguments)["']?\s{0,40}:"""
    )
    endings = ("}", "]")
    separators = ";"

    def open_call(self, opening: re.Match[str]) -> OpenCall:
        tagged = opening.group() == _TAG
        return _ObjectEnd(opening.end() if tagged else opening.start())

    def parse(self, text: str, *, closed: bool) -> tuple[ParsedCall, ...]:
        tagged = text.startswith(_TAG)
        body = text.removeprefix(_TAG).strip()
        try:
            value = read_json(body)
        except MalformedText as error:
            if not tagged and not _LOOKS_LIKE_ARGUMENTS.search(body):
                return ()
            when = "the call" if closed else "the reply ended before the call did, which"
            return (malformed_call(text, f"{when} cannot be read: {error}"),)
        if tagged and isinstance(value, list) and value:
            return tuple(call_of_object(each, item, self._tools) for each, item in read_items(body))
        if tagged or self._is_call(value):
            return (call_of_object(value, text, self._tools),)
        return ()

    def example(self, name: str, arguments: Mapping[str, Any]) -> str:
        return json.dumps({"name": name, "parameters": arguments}, ensure_ascii=False)

    def _is_call(self, value: Any) -> bool:
        """Return whether an object is a call, and not e.g. a tool's schema."""
        if isinstance(value, dict) and isinstance(value.get("function"), dict):
            value = value["function"]
        if not isinstance(value, dict) or "description" in value:
            return False
        if "parameters" in value or "arguments" in value:
            return True
        return value.get("name") in self._tools.names and value.keys() <= _FIELDS


class _ObjectEnd:
    def __init__(self, start: int) -> None:
        self._at = start
        self._json: JsonEndFinder | None = None

    def find_end(self, text: str) -> int | None:
        if self._json is None:
            while self._at < len(text) and text[self._at].isspace():
                self._at += 1
            if self._at == len(text) or text[self._at] not in "{[":
                return None
            self._json = JsonEndFinder(self._at)
        return self._json.find(text)
