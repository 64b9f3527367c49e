"""Type hints of tools, in the form that every release of transformers describes alike.

Older releases describe an enumeration and a custom class as an object.
"""

import enum
import inspect
import types
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from tokentape.generation.errors import ToolError

_SCALARS = (int, float, str, bool, type(None))
_KNOWN = (*_SCALARS, list, tuple, dict, Any)


def with_json_hints(function: Callable[..., Any], where: str) -> Callable[..., Any]:
    """Return a stand-in with the function's name, docstring and signature, for `get_json_schema`.

    Its type hints have the literal values of enumerations. `where` names the tool in errors.
    Raise ToolError for a custom class, and for an enumeration with values that JSON lacks.
    """

    def stand_in() -> None: ...

    stand_in.__name__, stand_in.__doc__ = function.__name__, function.__doc__
    stand_in.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    stand_in.__annotations__ = {
        name: hint if name == "return" else _json_hint(hint, f"{where}: argument {name!r}")
        for name, hint in get_type_hints(function).items()
    }
    return stand_in


def _json_hint(hint: Any, where: str) -> Any:
    arguments = get_args(hint)
    if isinstance(hint, type) and not arguments:
        if issubclass(hint, enum.Enum):
            return _literal(hint, where)
        if hint in _KNOWN or _has_own_type(hint):
            return hint
        raise ToolError(
            f"{where} has the type {hint.__qualname__}, a custom class, of which a model cannot "
            "write a value: use numbers, texts, booleans, enumerations, and lists or dictionaries "
            "of them"
        )
    if get_origin(hint) is Literal or not arguments:
        return hint
    inner = tuple(_json_hint(each, where) for each in arguments)
    if inner == arguments:
        return hint
    if get_origin(hint) in (Union, types.UnionType):
        return reduce(or_, inner)
    return get_origin(hint)[inner]


def _literal(kind: type[enum.Enum], where: str) -> Any:
    values = tuple(member.value for member in kind)
    if not values or not all(type(value) in _SCALARS for value in values):
        raise ToolError(
            f"{where} has the type {kind.__qualname__}, an enumeration without values that JSON "
            "has: use texts or numbers"
        )
    return Literal[values]


def _has_own_type(kind: type) -> bool:
    """Return whether `get_json_schema` has a type for this class that is not JSON's."""
    return kind is torch.Tensor or kind.__module__.startswith("PIL.")
