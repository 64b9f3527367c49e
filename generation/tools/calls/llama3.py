"""Calls of Llama 3: a JSON object with `name` and `parameters`, perhaps behind a tag."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tokentape.generation.tools.calls.call_format import BegunCall, CallFormat
from tokentape.generation.tools.calls.json_text import BrokenText, JsonEnd, read_items, read_json
from tokentape.generation.tools.calls.parsed_call import ParsedCall, broken, call_of_object

_TAG = "<|python_tag|>"
_FIELDS = {"name", "parameters", "arguments", "type", "function", "id"}
_LOOKS_LIKE_ARGUMENTS = re.compile(r"""["'](?:parameters|arguments)["']\s*:""")


class Llama3(CallFormat):
    rule = "write it as a JSON object, and nothing else"
    opening = (
        re.escape(_TAG)
        + r"""|\{\s{0,40}["']?(?:name|type|function|parameters|arguments)["']?\s{0,40}:"""
    )
    endings = ("}", "]")
    separators = ";"

    def begin(self, opening: re.Match[str]) -> BegunCall:
        tagged = opening.group() == _TAG
        return _ObjectEnd(opening.end() if tagged else opening.start())

    def parse(self, text: str, *, closed: bool) -> tuple[ParsedCall, ...]:
        tagged = text.startswith(_TAG)
        body = text.removeprefix(_TAG).strip()
        try:
            value = read_json(body)
        except BrokenText as error:
            if not tagged and not _LOOKS_LIKE_ARGUMENTS.search(body):
                return ()
            when = "the call" if closed else "the reply ended before the call did, which"
            return (broken(text, f"{when} cannot be read: {error}"),)
        if tagged and isinstance(value, list) and value:
            return tuple(call_of_object(each, part, self._tools) for each, part in read_items(body))
        if tagged or self._is_call(value):
            return (call_of_object(value, text, self._tools),)
        return ()

    def example(self, name: str, arguments: Mapping[str, Any]) -> str:
        return json.dumps({"name": name, "parameters": arguments}, ensure_ascii=False)

    def _is_call(self, value: Any) -> bool:
        """Other objects have names, too; the schema of a tool has a description as well."""
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
        self._json: JsonEnd | None = None

    def end(self, text: str) -> int | None:
        if self._json is None:
            while self._at < len(text) and text[self._at].isspace():
                self._at += 1
            if self._at == len(text) or text[self._at] not in "{[":
                return None
            self._json = JsonEnd(self._at)
        return self._json.find(text)
