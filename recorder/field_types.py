"""The types of the fields of events, checked when an event is recorded and when it is read.

The annotations of a class say what its fields hold. JSON has lists in place of tuples, and the
members of enumerations are strings there.
"""

import typing
from collections.abc import Callable, Mapping
from enum import Enum
from types import UnionType
from typing import Any

from tokentape.recorder.events import EVENT_CLASSES, Event, TokenSampled

_INT64 = range(-(2**63), 2**63)
_TURNS = range(2**31)
_TURN_FIELDS = ("turn", "at_turn", "turns")
"""Fields that stores hold in 32 bits."""
Check = Callable[[Any], bool]


def check_fields(cls: type[Event], values: Mapping[str, Any]) -> None:
    """Raise ValueError for a field whose value is not of its type.

    Whole numbers have 64 signed bits, the numbers of turns 31 bits.
    """
    for name, fits in _CHECKS[cls].items():
        if name in values and not fits(values[name]):
            raise ValueError(f"its {name} is {_shown(values[name])}")
    for name in _TURN_FIELDS:
        if isinstance(values.get(name), int) and values[name] not in _TURNS:
            raise ValueError(f"its {name} is {values[name]}")


def check_plain_types(value: Any) -> None:
    """Raise ValueError for a field of a dataclass whose value is not of the annotated type."""
    for name, hint in _hints(type(value)).items():
        held = getattr(value, name)
        if not _check_of(hint)(held):
            raise ValueError(f"its {name} is {_shown(held)}")


def with_tuples(cls: type[Event], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with tuples where the class has them, at any depth."""
    tuples = {n: _tuples(values[n], hint) for n, hint in _TUPLES[cls].items() if n in values}
    return {**values, **tuples}


def _tuples(value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) is not tuple or not isinstance(value, list):
        return value
    inner = typing.get_args(hint)[0]
    if typing.get_origin(inner) is not tuple:
        return tuple(value)
    return tuple(_tuples(each, inner) for each in value)


def _shown(value: Any) -> str:
    """Return a short description of a value."""
    if isinstance(value, int | float | str | None):
        return f"{value!r:.80}"
    return f"a {type(value).__name__} with values that it cannot hold"


def _check_of(hint: Any) -> Check:
    """Return the check of an annotation."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        checks = [_check_of(each) for each in inner]
        return lambda value: any(fits(value) for fits in checks)
    if origin is tuple:
        return _check_of_tuple(inner)
    if hint is int:
        return lambda value: isinstance(value, int) and value in _INT64
    if hint is float:
        return lambda value: isinstance(value, int | float)
    if hint is type(None):
        return lambda value: value is None
    plain = origin or hint
    kind = str if issubclass(plain, Enum) else plain
    return lambda value: isinstance(value, kind)


def _check_of_tuple(inner: tuple[Any, ...]) -> Check:
    first = _check_of(inner[0])
    if len(inner) == 2 and inner[1] is Ellipsis:
        if inner[0] is int:
            # A prompt may have a hundred thousand ids.
            return lambda value: (
                isinstance(value, list | tuple)
                and {*map(type, value)} <= {int}
                and (not value or (min(value) in _INT64 and max(value) in _INT64))
            )
        return lambda value: isinstance(value, list | tuple) and all(map(first, value))
    return lambda value: (
        isinstance(value, list | tuple) and len(value) == len(inner) and all(map(first, value))
    )


_hints: Callable[[type], dict[str, Any]] = typing.get_type_hints
_TUPLES: dict[type, dict[str, Any]] = {
    cls: {name: hint for name, hint in _hints(cls).items() if typing.get_origin(hint) is tuple}
    for cls in EVENT_CLASSES.values()
}
_CHECKS: dict[type, dict[str, Check]] = {
    cls: {
        name: _check_of(hint)
        for name, hint in _hints(cls).items()
        if typing.get_origin(hint) is not typing.ClassVar
    }
    # Each of a hundred thousand tokens checks its own numbers.
    if cls is not TokenSampled
    else {}
    for cls in EVENT_CLASSES.values()
}
