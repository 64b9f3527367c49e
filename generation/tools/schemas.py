"""How a Python function is described to a model: JSON schemas from hints and docstrings."""

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

_JSON_TYPES = {"string", "integer", "number", "boolean", "null", "array", "object"}
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Name, description and parameters, by transformers' `get_json_schema`, with default values.

    Raises ToolError, which says what is missing and in which function.
    """
    where = _refuse_what_is_no_function(function)
    missing = list(_missing(function))
    if missing:
        raise ToolError(
            f"{where} cannot be described to a model: {', '.join(missing)}; a tool needs type "
            'hints, and a docstring with an "Args:" section that has a line for each argument'
        )
    try:
        schema: dict[str, Any] = get_json_schema(function)["function"]
    except (
        DocstringParsingException,
        TypeHintParsingException,
        NameError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())
        raise ToolError(f"{where} cannot be described to a model: {reason}") from None
    _refuse_what_no_model_can_write(schema, where)
    _add_defaults(schema, function)
    return schema


def documented(schema: Mapping[str, Any]) -> str:
    """A tool as a system prompt tells of it: what it does, and a line for each argument."""
    lines = [f"{schema['name']}: {' '.join(schema['description'].split())}"]
    required = schema["parameters"].get("required", [])
    for name, parameter in schema["parameters"]["properties"].items():
        need = "required" if name in required else "optional"
        if "default" in parameter:
            need += f", default {json.dumps(parameter['default'], ensure_ascii=False)}"
        kind = described_type(parameter)
        lines.append(f"- {name} ({kind}, {need}): {parameter.get('description', '')}".rstrip(": "))
    return "\n".join(lines)


def described_type(schema: Mapping[str, Any]) -> str:
    """The type of a schema in words: `string or array of string`, `"mean" or "zero"`."""
    if "enum" in schema:
        kinds = [json.dumps(each, ensure_ascii=False) for each in schema["enum"]]
    elif "anyOf" in schema:
        kinds = [described_type(each) for each in schema["anyOf"]]
    elif isinstance(schema.get("type"), list):
        kinds = list(schema["type"])
    elif schema.get("type") == "array" and schema.get("items"):
        kinds = [f"array of {described_type(schema['items'])}"]
    else:
        kinds = [schema.get("type", "anything")]
    if schema.get("nullable"):
        kinds.append("null")
    return " or ".join(kinds)


def _refuse_what_is_no_function(function: object) -> str:
    """Where the function is, for messages; raises ToolError where it can be no tool."""
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        raise ToolError(
            f"{function!r} is no function: a tool is a Python function or a method of an object; "
            "write a function that calls it"
        )
    code = inspect.unwrap(function).__code__
    where = f"the tool {function.__name__} ({code.co_filename}:{code.co_firstlineno})"
    if not function.__name__.isidentifier() or keyword.iskeyword(function.__name__):
        raise ToolError(f"{where} has no name that a model could call: write it with `def`")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ToolError(f"{where} is asynchronous: a tool is a plain function")
    return where


def _missing(function: Callable[..., Any]) -> Iterator[str]:
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
            yield f"a call can only name its arguments, and {str(parameter)!r} has no name of one"
            continue
        if parameter.annotation is Parameter.empty:
            yield f"argument {parameter.name!r} has no type hint"
        if docstring and not described.get(parameter.name):
            yield f"the docstring has no description of argument {parameter.name!r}"


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    return list(inspect.signature(function).parameters.values())


def _refuse_what_no_model_can_write(schema: Mapping[str, Any], where: str) -> None:
    for name, parameter in schema["parameters"]["properties"].items():
        strange = set(_types(parameter)) - _JSON_TYPES
        if strange:
            # get_json_schema calls a tensor "audio" and a picture "image".
            raise ToolError(
                f"{where} cannot be called by a model: argument {name!r} is of a type that JSON "
                f"does not have ({', '.join(sorted(strange))})"
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
    """`get_json_schema` says which arguments have a default, and not which."""
    for parameter in _parameters(function):
        default = parameter.default
        if default is Parameter.empty or parameter.name not in schema["parameters"]["properties"]:
            continue
        if isinstance(default, enum.Enum):
            default = default.value
        try:
            default = json.loads(json.dumps(default, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            continue  # a default that JSON cannot write is the function's own affair
        schema["parameters"]["properties"][parameter.name]["default"] = default
