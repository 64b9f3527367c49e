"""Check the arguments of a tool call against the tool's type hints, before it runs."""

import enum
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from tokentape.generation.errors import ToolError
from tokentape.generation.tools.descriptions import type_in_words
from tokentape.generation.tools.validation import (
    BOOLEANS,
    NULLS,
    InvalidValue,
    fit,
    not_a_choice,
)
from tokentape.recorder.near_names import nearest


def fit_arguments(
    function: Callable[..., Any], schema: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments with the types of the function's hints, cast if nothing is lost.

    E.g. `"7"` becomes 7 for an integer, `"true"` True, JSON in a string a list or a dict, the value
    of an Enum its member. Raise ToolError, with everything that is wrong and the tool's signature.
    """
    parameters = schema["parameters"]["properties"]
    hints = get_type_hints(function)
    problems = [
        f"argument {name!r} is missing"
        for name in schema["parameters"].get("required", [])
        if name not in arguments
    ]
    fitted = {}
    for name, value in arguments.items():
        if name not in parameters:
            problems.append(f"there is no argument {name!r}{nearest(name, parameters)}")
            continue
        try:
            fitted[name] = fit(value, hints[name], cast=True)
            _check_documented_choices(fitted[name], parameters[name])
        except InvalidValue as error:
            problems.append(f"argument {_spell(name, error.path)!r} {error.rule}")
    if problems:
        raise ToolError(f"{'; '.join(problems)}. {_signature(schema)}")
    _check_binds(function, fitted)
    return fitted


def fit_text(text: str, schema: Mapping[str, Any]) -> Any:
    """Return an argument that is written as text without quotes, with a type of its schema.

    A text that spells a value of another type than the schema allows stays a string.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None if text.strip() in NULLS else BOOLEANS.get(text.strip().lower(), text)
    kinds = _allowed_types(schema)
    kind = _json_type(value)
    if kind == "string":
        return text
    if kind in kinds or (kind == "integer" and "number" in kinds) or not kinds:
        return value
    return text


def _allowed_types(schema: Mapping[str, Any]) -> set[str]:
    """Return the JSON types that a schema allows; an empty set if it allows all."""
    declared = schema.get("type", [])
    kinds = {declared} if isinstance(declared, str) else set(declared)
    for each in schema.get("anyOf", ()):
        kinds |= _allowed_types(each)
    return kinds | ({"null"} if schema.get("nullable") else set())


def _check_documented_choices(value: Any, schema: Mapping[str, Any]) -> None:
    """Check a value against choices that only the docstring names, as `(choices: ["a", "b"])`."""
    if isinstance(value, enum.Enum) or "enum" not in schema:
        return
    if value not in schema["enum"] and not (value is None and schema.get("nullable")):
        raise not_a_choice(value, schema["enum"])


def _check_binds(function: Callable[..., Any], fitted: Mapping[str, Any]) -> None:
    try:
        inspect.signature(function).bind(**fitted)
    except TypeError as error:
        raise ToolError(str(error)) from None


def _spell(name: str, path: tuple[str | int, ...]) -> str:
    """Return an argument's name and the path to a value inside it, e.g. `layers[1].name`."""
    return name + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


def _signature(schema: Mapping[str, Any]) -> str:
    required = schema["parameters"].get("required", [])
    listed = [
        f"{name} ({type_in_words(parameter)}{'' if name in required else ', optional'})"
        for name, parameter in schema["parameters"]["properties"].items()
    ]
    return f"{schema['name']} takes {', '.join(listed) if listed else 'no arguments'}"


def _json_type(value: Any) -> str:
    kinds = {
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        list: "array",
        dict: "object",
    }
    return "null" if value is None else kinds.get(type(value), "")
