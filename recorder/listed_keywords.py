"""Signatures that list the keywords of a `**settings: Unpack[…]`, for completion and `help`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Unpack, cast, get_args, get_origin

from tokentape.recorder.near_names import nearest

Function = TypeVar("Function", bound=Callable[..., Any])


class _Default:
    """A default that the called function chooses."""

    def __repr__(self) -> str:
        return "<default>"


DEFAULT = _Default()


def lists_keywords(defaults: Mapping[str, object]) -> Callable[[Function], Function]:
    """Return a decorator that lists the keywords of a function's TypedDict in its signature.

    `defaults` are shown; other keywords have the default `<default>`. Calls are not changed.
    """

    def decorate(function: Function) -> Function:
        listed = _listed(inspect.signature(function), defaults)
        function.__signature__ = listed  # type: ignore[attr-defined]
        return function

    return decorate


def _listed(signature: inspect.Signature, defaults: Mapping[str, object]) -> inspect.Signature:
    """Return a signature with the keywords of its TypedDict as parameters."""
    found: list[inspect.Parameter] = []
    for each in signature.parameters.values():
        if get_origin(each.annotation) is not Unpack:
            found.append(each)
            continue
        (keywords,) = get_args(each.annotation)
        found += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(name, DEFAULT),
                annotation=annotation,
            )
            for name, annotation in keywords.__annotations__.items()
        ]
    return signature.replace(parameters=found)


def suggests_keywords(function: Function) -> Function:
    """Let a TypeError for an unknown keyword of the function name the nearest keyword.

    The keywords of a TypedDict are known, and listed in the signature.
    """
    signature = _listed(inspect.signature(function), {})
    known = [
        each.name
        for each in signature.parameters.values()
        if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD) and each.name != "self"
    ]

    @functools.wraps(function)
    def checked(*args: Any, **keywords: Any) -> Any:
        for name in keywords:
            if name not in known:
                near = nearest(name, known)
                raise TypeError(f"{function.__name__}() has no keyword {name!r}{near}")
        return function(*args, **keywords)

    checked.__signature__ = signature  # type: ignore[attr-defined]
    return cast("Function", checked)
