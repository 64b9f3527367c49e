"""A parsed tool call, or the reason why it cannot be parsed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokentape.generation.tools.calls.json_text import (
    MalformedText,
    check_json_value,
    read_json,
)
from tokentape.generation.tools.interface import ToolInterface


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCall:
    """A tool call in a reply."""

    name: str
    """"" if a malformed call has no readable name."""
    arguments: Mapping[str, Any]
    """Empty for a malformed call."""
    text: str
    """The call as the model wrote it."""
    error: str = ""
    """"" for a well-formed call, else what the model should write differently."""


def malformed_call(text: str, error: str, name: str = "") -> ParsedCall:
    """Return a call that cannot be run. Unpaired surrogates, which JSON can have, are escaped."""
    name, error = (each.encode("utf-8", "backslashreplace").decode() for each in (name, error))
    return ParsedCall(name=name, arguments={}, text=text, error=error)


def checked_call(name: str, arguments: Any, text: str, tools: ToolInterface) -> ParsedCall:
    """Return a call whose tool exists and whose arguments are a JSON object, else a malformed one.

    Arguments in a string are parsed as JSON.
    """
    if name not in tools.names:
        return malformed_call(text, tools.unknown_tool_message(name), name)
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments)
        except MalformedText as error:
            return malformed_call(text, f"the arguments of {name} cannot be read: {error}", name)
    if not isinstance(arguments, dict):
        return malformed_call(
            text,
            f"the arguments of {name} must be a JSON object with a name for each argument, "
            f'such as {{"name": "value"}}, not {_kind(arguments)}',
            name,
        )
    try:
        check_json_value(arguments)
    except MalformedText as error:
        return malformed_call(text, f"the arguments of {name} cannot be read: {error}", name)
    return ParsedCall(name=name, arguments=arguments, text=text)


def call_of_object(value: Any, text: str, tools: ToolInterface) -> ParsedCall:
    """Return the call in an object `{"name": …, "arguments": {…}}`; `parameters` works as well."""
    if not isinstance(value, dict):
        return malformed_call(
            text,
            f'a call is a JSON object with "name" and "arguments", not {_kind(value)}',
        )
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name", value.get("function"))
    if not isinstance(name, str) or not name:
        return malformed_call(text, 'the call does not say which tool: it has no "name"')
    arguments = value.get("arguments", value.get("parameters", {}))
    return checked_call(name, arguments, text, tools)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "true or false", list: "an array", str: "a string", dict: "an object"}
    return kinds.get(type(value), "a number")
