"""The arguments of a call, checked against the tool's hints before it runs."""

import difflib
import enum
import inspect
import json
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tokentape.generation.errors import ToolError
from tokentape.generation.tools.schemas import described_type

_INTEGER = re.compile(r"[+-]?[0-9]{1,300}", re.ASCII)
_NOTHING = {"null", "None"}
_TRUTH = {"true": True, "false": False}


class _Misfit(Exception):
    """A value is not of its type; the message says so without naming the argument."""


def fit_arguments(
    function: Callable[..., Any], schema: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments as the function wants them, where need be cast without loss.

    `"7"` becomes an integer where one is wanted, `"true"` a boolean, a text of JSON a list or an
    object, a value a member of its Enum. Raises ToolError, which names everything that is wrong.
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
            fitted[name] = fit(value, hints[name])
            _refuse_other_choices(fitted[name], parameters[name])
        except _Misfit as misfit:
            problems.append(f"argument {name!r} {misfit}")
    if problems:
        raise ToolError(f"{'; '.join(problems)}. {_usage(schema)}")
    _refuse_what_does_not_bind(function, fitted)
    return fitted


def fit_text(text: str, schema: Mapping[str, Any]) -> Any:
    """A value written as bare text, without quotes around strings, read by its schema.

    What can be read as a type of the schema other than a string is, the rest is a string.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None if text.strip() in _NOTHING else _TRUTH.get(text.strip().lower(), text)
    kinds = described_types(schema)
    kind = _json_type(value)
    if kind == "string":
        return text
    if kind in kinds or (kind == "integer" and "number" in kinds) or not kinds:
        return value
    return text


def described_types(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema allows; none where it allows anything."""
    declared = schema.get("type", [])
    kinds = {declared} if isinstance(declared, str) else set(declared)
    for each in schema.get("anyOf", ()):
        kinds |= described_types(each)
    return kinds | ({"null"} if schema.get("nullable") else set())


def nearest(name: object, names: Iterable[str]) -> str:
    """` (did you mean 'a' or 'b'?)`, or nothing where no name is near."""
    close = difflib.get_close_matches(str(name)[:200], list(names), n=2)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def fit(value: Any, hint: Any) -> Any:
    """The value as the hint has it; what fits already is not touched. Raises _Misfit."""
    origin, members = get_origin(hint), get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return value
    if origin is Union or origin is types.UnionType:
        return _fit_one_of(value, members)
    if origin is Literal:
        return _fit_choice(value, {each: each for each in members})
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value if isinstance(value, hint) else _fit_choice(value, _by_value(hint))
    if hint in _SCALARS:
        return _SCALARS[hint](value)
    kind = origin or hint
    if kind in (list, tuple):
        return _fit_items(value, kind, members)
    if kind is dict:
        return _fit_object(value, members)
    return value


def _fit_one_of(value: Any, hints: Sequence[Any]) -> Any:
    """The first that fits as it is, else the first that fits by a cast."""
    misfits = []
    for cast in (False, True):
        for hint in hints:
            try:
                fitted = fit(value, hint)
            except _Misfit as misfit:
                misfits.append(str(misfit))
                continue
            if cast or (type(fitted) is type(value) and fitted == value):
                return fitted
    tail = f", not {_shown(value)}"
    wanted = [each.removeprefix("must be ").removesuffix(tail) for each in misfits]
    raise _Misfit(f"must be {' or '.join(dict.fromkeys(wanted))}{tail}")


def _fit_integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise _Misfit(f"must be an integer, not {_shown(value)}")


def _fit_number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            number = json.loads(value, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            number = None
        if isinstance(number, int | float) and not isinstance(number, bool):
            return number
    raise _Misfit(f"must be a number, not {_shown(value)}")


def _fit_boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _TRUTH:
        return _TRUTH[value.strip().lower()]
    raise _Misfit(f"must be true or false, not {_shown(value)}")


def _fit_string(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise _Misfit(f"must be a string, not {_shown(value)}")


def _fit_nothing(value: Any) -> None:
    if value is not None and not (isinstance(value, str) and value.strip() in _NOTHING):
        raise _Misfit(f"must be null, not {_shown(value)}")


_SCALARS: Mapping[Any, Callable[[Any], Any]] = {
    int: _fit_integer,
    float: _fit_number,
    bool: _fit_boolean,
    str: _fit_string,
    type(None): _fit_nothing,
}


def _by_value(kind: type[enum.Enum]) -> dict[Any, Any]:
    return {member.value: member for member in kind}


def _fit_choice(value: Any, choices: Mapping[Any, Any]) -> Any:
    for choice, meant in choices.items():
        # True equals 1, and neither is the other.
        if type(choice) is type(value) and choice == value:
            return meant
    for choice, meant in choices.items():
        if isinstance(value, str) and not isinstance(choice, str):
            try:
                if _SCALARS[type(choice)](value) == choice:
                    return meant
            except _Misfit:
                continue
    raise _Misfit(_no_choice(value, list(choices)))


def _no_choice(value: Any, choices: Sequence[Any]) -> str:
    listed = ", ".join(_shown(each) for each in choices)
    near = nearest(value, [each for each in choices if isinstance(each, str)])
    return f"must be one of {listed}, not {_shown(value)}{near}"


def _fit_items(value: Any, kind: type, members: Sequence[Any]) -> Any:
    items = _read_json(value)
    if not isinstance(items, list | tuple):
        raise _Misfit(f"must be an array, not {_shown(value)}")
    if kind is tuple and members and len(items) != len(members):
        raise _Misfit(f"must be an array of {len(members)} items, not of {len(items)}")
    hints = members if kind is tuple and members else [*members, Any][:1] * len(items)
    fitted = []
    for index, (item, hint) in enumerate(zip(items, hints, strict=True)):
        try:
            fitted.append(fit(item, hint))
        except _Misfit as misfit:
            raise _Misfit(f"has an item {index} that {misfit}") from None
    return kind(fitted)


def _fit_object(value: Any, members: Sequence[Any]) -> dict[Any, Any]:
    fields = _read_json(value)
    if not isinstance(fields, Mapping):
        raise _Misfit(f"must be an object, not {_shown(value)}")
    key_hint, value_hint = members or (Any, Any)
    fitted = {}
    for key, field in fields.items():
        try:
            fitted[fit(key, key_hint)] = fit(field, value_hint)
        except _Misfit as misfit:
            raise _Misfit(f"has a field {key!r} that {misfit}") from None
    return fitted


def _read_json(value: Any) -> Any:
    """A text of JSON as what it says; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def _refuse_other_choices(value: Any, schema: Mapping[str, Any]) -> None:
    """A docstring can name choices, too, which the hint knows nothing of."""
    if isinstance(value, enum.Enum) or "enum" not in schema:
        return
    if value not in schema["enum"] and not (value is None and schema.get("nullable")):
        raise _Misfit(_no_choice(value, schema["enum"]))


def _refuse_what_does_not_bind(function: Callable[..., Any], fitted: Mapping[str, Any]) -> None:
    try:
        inspect.signature(function).bind(**fitted)
    except TypeError as error:
        raise ToolError(str(error)) from None


def _usage(schema: Mapping[str, Any]) -> str:
    required = schema["parameters"].get("required", [])
    listed = [
        f"{name} ({described_type(parameter)}{'' if name in required else ', optional'})"
        for name, parameter in schema["parameters"]["properties"].items()
    ]
    takes = ", ".join(listed) if listed else "no arguments"
    return f"{schema['name']} takes {takes}"


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


def _shown(value: Any) -> str:
    """A value as JSON has it, with its type, and not too much of it."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = object.__repr__(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
