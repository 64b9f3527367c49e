"""JSON schemas and descriptions of Python functions, from type hints and docstrings."""

import enum
import inspect
import json
import keyword
from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from typing import Any

from transformers.utils.chat_template_utils import (
    DocstringParsingException,
    TypeHintParsingException,
    get_json_schema,
    parse_google_format_docstring,
)

from tokentape.generation.errors import ToolError
from tokentape.generation.tools.json_hints import with_json_hints

_JSON_TYPES = {"string", "integer", "number", "boolean", "null", "array", "object"}
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the schema of transformers' `get_json_schema`, with the default values added.

    Raise ToolError if the function cannot be a tool; the message says where it is and why.
    """
    where = _check_function(function)
    missing = list(_missing_descriptions(function))
    if missing:
        raise ToolError(
            f"{where} cannot be described to a model: {', '.join(missing)}; a tool needs type "
            'hints, and a docstring with an "Args:" section that has a line for each argument'
        )
    try:
        schema: dict[str, Any] = get_json_schema(with_json_hints(function, where))["function"]
    except (
        DocstringParsingException,
        TypeHintParsingException,
        NameError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())
        raise ToolError(f"{where} cannot be described to a model: {reason}") from None
    _check_json_types(schema, where)
    _add_defaults(schema, function)
    return schema


def _check_function(function: object) -> str:
    """Return the function's name and file for messages. Raise ToolError if it cannot be a tool."""
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        raise ToolError(
            f"{function!r} is not a function: a tool is a Python function or a bound method; "
            "write a function that calls it"
        )
    code = inspect.unwrap(function).__code__
    where = f"the tool {function.__name__} ({code.co_filename}:{code.co_firstlineno})"
    if not function.__name__.isidentifier() or keyword.iskeyword(function.__name__):
        raise ToolError(f"{where} has no name that a model can write: define it with `def`")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ToolError(f"{where} is asynchronous: a tool must be a plain function")
    return where


def _missing_descriptions(function: Callable[..., Any]) -> Iterator[str]:
    docstring = (inspect.getdoc(function) or "").strip()
    described: Mapping[str, str] = {}
    if not docstring:
        yield "it has no docstring"
    else:
        text, arguments, _ = parse_google_format_docstring(docstring)
        described = arguments or {}
        if not text:
            yield "its docstring does not say what it does"
    for parameter in _parameters(function):
        if parameter.kind not in _NAMED:
            yield f"arguments are passed by name, which {str(parameter)!r} does not allow"
            continue
        if parameter.annotation is Parameter.empty:
            yield f"argument {parameter.name!r} has no type hint"
        if docstring and not described.get(parameter.name):
            yield f"the docstring has no description of argument {parameter.name!r}"


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    return list(inspect.signature(function).parameters.values())


def _check_json_types(schema: Mapping[str, Any], where: str) -> None:
    for name, parameter in schema["parameters"]["properties"].items():
        foreign = set(_types(parameter)) - _JSON_TYPES
        if foreign:
            # get_json_schema gives tensors the type "audio" and images the type "image".
            raise ToolError(
                f"{where} cannot be called by a model: argument {name!r} has a type that JSON "
                f"lacks ({', '.join(sorted(foreign))})"
            )


def _types(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        declared = schema.get("type", [])
        yield from [declared] if isinstance(declared, str) else declared
        for key in ("items", "additionalProperties"):
            yield from _types(schema.get(key))
        for key in ("anyOf", "prefixItems"):
            for each in schema.get(key, ()):
                yield from _types(each)


def _add_defaults(schema: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Add the default values, which `get_json_schema` leaves out, to the schema."""
    for parameter in _parameters(function):
        default = parameter.default
        if default is Parameter.empty or parameter.name not in schema["parameters"]["properties"]:
            continue
        if isinstance(default, enum.Enum):
            default = default.value
        try:
            default = json.loads(json.dumps(default, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            continue  # not writable as JSON: the schema shows no default
        schema["parameters"]["properties"][parameter.name]["default"] = default
