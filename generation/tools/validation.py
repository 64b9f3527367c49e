"""Fit plain values, as JSON and YAML hold them, to Python type hints.

Used for the arguments of tool calls, which a model writes, and for the fields of an experiment
plan, which a user writes.
"""

import dataclasses
import enum
import inspect
import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tokentape.recorder.near_names import nearest

_INTEGER = re.compile(r"[+-]?[0-9]{1,300}", re.ASCII)
NULLS = ("null", "None")
BOOLEANS = {"true": True, "false": False}


class InvalidValue(ValueError):
    """A value does not fit its hint: a rule such as "must be a string, not 3", and a path.

    The path holds the field names and list indices that lead from the outermost value to this one.
    """

    def __init__(self, rule: str, *path: str | int) -> None:
        super().__init__(rule)
        self.rule = rule
        self.path = path

    def inside(self, key: str | int) -> "InvalidValue":
        """Return the same error, seen from the value that holds this one at `key`."""
        return InvalidValue(self.rule, key, *self.path)


def fit(value: Any, hint: Any, *, cast: bool) -> Any:
    """Return the value as the type hint describes it. Raise InvalidValue if it does not fit.

    A dataclass is built from a mapping of its fields, an Enum member from its value. The functions
    in the metadata of an `Annotated` hint are applied in order: each returns the value or raises.
    With `cast`, a string is also read as the number, boolean, null or JSON that it spells, and an
    integral float as an integer. A hint of another kind accepts everything.
    """
    origin, members = get_origin(hint), get_args(hint)
    if origin is Annotated:
        fitted = fit(value, members[0], cast=cast)
        for check in members[1:]:
            fitted = check(fitted)
        return fitted
    if hint is Any or hint is inspect.Parameter.empty:
        return value
    if origin is Union or origin is types.UnionType:
        return _fit_union(value, members, cast)
    if origin is Literal:
        return _fit_choice(value, {each: each for each in members}, cast)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        by_value = {member.value: member for member in hint}
        return value if isinstance(value, hint) else _fit_choice(value, by_value, cast)
    if hint in _SCALARS:
        return _SCALARS[hint](value, cast)
    if dataclasses.is_dataclass(hint):
        return _fit_dataclass(value, hint, cast)
    kind = origin or hint
    if kind in (list, tuple):
        return _fit_array(value, kind, members, cast)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return _fit_object(value, members, cast)
    return value


def check_text(value: str) -> str:
    """Check that a string is not blank and can be encoded in UTF-8."""
    if not value.strip():
        raise InvalidValue("is empty")
    return check_encodable(value)


def check_encodable(value: str) -> str:
    """Check that a string can be encoded in UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValue("has an unpaired surrogate, which is not a character") from None
    return value


def at_least(least: int) -> Callable[[int], int]:
    """Return a check that an integer is at least `least` and fits into 64 bits."""

    def check(value: int) -> int:
        if not least <= value < 2**63:
            raise InvalidValue(f"must be at least {least} and below 2**63, not {show(value)}")
        return value

    return check


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Return a check that a string is one of the choices."""

    def check(value: str) -> str:
        if value not in choices:
            raise not_a_choice(value, choices)
        return value

    return check


def as_json(value: Any) -> Any:
    """Return the value as JSON holds it, with lists for tuples."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        return json.loads(text.encode())
    except (TypeError, ValueError, RecursionError):
        raise InvalidValue(
            f"must be JSON (strings, finite numbers, booleans, arrays, objects), not {show(value)}"
        ) from None


JsonValue = Annotated[Any, as_json]
Text = Annotated[str, check_text]


def show(value: Any) -> str:
    """Return a value as JSON for an error message, cut to 60 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = object.__repr__(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def not_a_choice(value: Any, choices: Sequence[Any]) -> InvalidValue:
    """Return the error for a value that is not one of the choices."""
    listed = ", ".join(show(each) for each in choices)
    near = nearest(value, [each for each in choices if isinstance(each, str)])
    return InvalidValue(f"must be one of {listed}, not {show(value)}{near}")


def _fit_union(value: Any, hints: Sequence[Any], cast: bool) -> Any:
    """Return the value fitted to the first hint that leaves it unchanged, else to the first."""
    errors = []
    for unchanged in (True, False):
        for hint in hints:
            try:
                fitted = fit(value, hint, cast=cast)
            except InvalidValue as error:
                errors.append(error)
                continue
            if not unchanged or (type(fitted) is type(value) and fitted == value):
                return fitted
    for misfit in errors:
        if misfit.path:  # the value has one of the types, but a value inside it does not fit
            raise misfit
    tail = f", not {show(value)}"
    wanted = [each.rule.removeprefix("must be ").removesuffix(tail) for each in errors]
    raise InvalidValue(f"must be {' or '.join(dict.fromkeys(wanted))}{tail}")


def _fit_integer(value: Any, cast: bool) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if cast and isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value)
    if cast and isinstance(value, float) and value.is_integer():
        return int(value)
    raise InvalidValue(f"must be an integer, not {show(value)}")


def _fit_number(value: Any, cast: bool) -> float:
    number = _read_json(value) if cast else value
    if isinstance(number, int | float) and not isinstance(number, bool):
        return number
    raise InvalidValue(f"must be a number, not {show(value)}")


def _fit_boolean(value: Any, cast: bool) -> bool:
    if isinstance(value, bool):
        return value
    if cast and isinstance(value, str) and value.strip().lower() in BOOLEANS:
        return BOOLEANS[value.strip().lower()]
    raise InvalidValue(f"must be true or false, not {show(value)}")


def _fit_string(value: Any, cast: bool) -> str:
    if isinstance(value, str):
        return value
    raise InvalidValue(f"must be a string, not {show(value)}")


def _fit_null(value: Any, cast: bool) -> None:
    if value is not None and not (cast and isinstance(value, str) and value.strip() in NULLS):
        raise InvalidValue(f"must be null, not {show(value)}")


_SCALARS: Mapping[Any, Callable[[Any, bool], Any]] = {
    int: _fit_integer,
    float: _fit_number,
    bool: _fit_boolean,
    str: _fit_string,
    type(None): _fit_null,
}


def _fit_choice(value: Any, choices: Mapping[Any, Any], cast: bool) -> Any:
    for choice, meant in choices.items():
        # True equals 1, but they are different choices.
        if type(choice) is type(value) and choice == value:
            return meant
    for choice, meant in choices.items():
        if cast and isinstance(value, str) and not isinstance(choice, str):
            try:
                if _SCALARS[type(choice)](value, cast) == choice:
                    return meant
            except InvalidValue:
                continue
    raise not_a_choice(value, list(choices))


def _fit_array(value: Any, kind: type, members: Sequence[Any], cast: bool) -> Any:
    items = _read_json(value) if cast else value
    if not isinstance(items, list | tuple):
        raise InvalidValue(f"must be an array, not {show(value)}")
    if kind is tuple and members and members[-1] is not Ellipsis:
        if len(items) != len(members):
            raise InvalidValue(f"must be an array of {len(members)} items, not of {len(items)}")
        hints = members
    else:
        hints = [*members, Any][:1] * len(items)
    return kind(
        _fit_at(index, item, partial(fit, hint=hint, cast=cast))
        for index, (item, hint) in enumerate(zip(items, hints, strict=True))
    )


def _fit_object(value: Any, members: Sequence[Any], cast: bool) -> dict[Any, Any]:
    fields = _read_json(value) if cast else value
    if not isinstance(fields, Mapping):
        raise InvalidValue(f"must be an object, not {show(value)}")
    key_hint, value_hint = members or (Any, Any)
    return {
        _fit_at(str(key), key, partial(fit, hint=key_hint, cast=cast)): _fit_at(
            str(key), field, partial(fit, hint=value_hint, cast=cast)
        )
        for key, field in fields.items()
    }


def _fit_dataclass(value: Any, kind: Any, cast: bool) -> Any:
    """Build a dataclass. Its `__post_init__` may raise InvalidValue.

    If the class has a static method `expand`, that first turns short forms into mappings.
    """
    value = getattr(kind, "expand", lambda given: given)(value)
    declared = {field.name: field for field in dataclasses.fields(kind)}
    listed = ", ".join(declared)
    if not isinstance(value, Mapping):
        raise InvalidValue(f"must be an object with the fields {listed}, not {show(value)}")
    for name in value:
        if name not in declared:
            near = nearest(name, declared)
            raise InvalidValue(f"is not a field{near}; the fields are {listed}", str(name))
    for name, field in declared.items():
        optional = not (field.default is field.default_factory is dataclasses.MISSING)
        if name not in value and not optional:
            raise InvalidValue("is missing", name)
    hints = get_type_hints(kind, include_extras=True)
    return kind(
        **{
            name: _fit_at(name, given, partial(fit, hint=hints[name], cast=cast))
            for name, given in value.items()
        }
    )


def _fit_at(key: str | int, value: Any, fit_value: Callable[[Any], Any]) -> Any:
    """Fit a part of a value; an error says at which key."""
    try:
        return fit_value(value)
    except InvalidValue as error:
        raise error.inside(key) from None


def _read_json(value: Any) -> Any:
    """Return the value of a JSON text; the value unchanged if it is not one."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return value


def _reject_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")
