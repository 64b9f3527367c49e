"""A call as it was read, or why it could not be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokentape.generation.tools.calls.json_text import (
    BrokenText,
    check_json_value,
    read_json,
)
from tokentape.generation.tools.interface import ToolInterface


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCall:
    """`text` is the call as the model wrote it.

    `error` is "" for a well-formed call, else a sentence that a model can act on; then `name` may
    be "" and `arguments` empty.
    """

    name: str
    arguments: Mapping[str, Any]
    text: str
    error: str = ""


def broken(text: str, error: str, name: str = "") -> ParsedCall:
    return ParsedCall(name=name, arguments={}, text=text, error=error)


def checked(name: str, arguments: Any, text: str, tools: ToolInterface) -> ParsedCall:
    """A call of a tool that there is, with arguments that are an object and can be recorded."""
    if name not in tools.names:
        return broken(text, tools.unknown(name), name)
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments)
        except BrokenText as error:
            return broken(text, f"the arguments of {name} cannot be read: {error}", name)
    if not isinstance(arguments, dict):
        return broken(
            text,
            f"the arguments of {name} must be a JSON object with a name for each argument, "
            f'such as {{"name": "value"}}, not {_kind(arguments)}',
            name,
        )
    try:
        check_json_value(arguments)
    except BrokenText as error:
        return broken(text, f"the arguments of {name} cannot be read: {error}", name)
    return ParsedCall(name=name, arguments=arguments, text=text)


def call_of_object(value: Any, text: str, tools: ToolInterface) -> ParsedCall:
    """A call written as `{"name": …, "arguments": {…}}`; `parameters` means the same."""
    if not isinstance(value, dict):
        return broken(
            text,
            f'a call is a JSON object with "name" and "arguments", not {_kind(value)}',
        )
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name", value.get("function"))
    if not isinstance(name, str) or not name:
        return broken(text, 'the call does not say which tool: it has no "name"')
    arguments = value.get("arguments", value.get("parameters", {}))
    return checked(name, arguments, text, tools)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "true or false", list: "a list", str: "a text", dict: "an object"}
    return kinds.get(type(value), "a number")
