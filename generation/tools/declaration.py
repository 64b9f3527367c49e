"""The decorator that declares a function as a tool, and the limits of tools."""

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from tokentape.generation.errors import ToolError
from tokentape.recorder.plain_values import plain_number

SECONDS_MAX = 60.0
OUTPUT_CHARS_MAX = 24_000
_OUTPUT_CHARS_LEAST = 200
_LIMITS = "_tokentape_limits"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """Limits of a tool, or the defaults of a set of tools. None: the next default applies."""

    seconds_max: float | None
    output_chars_max: int | None

    def __post_init__(self) -> None:
        for name in ("seconds_max", "output_chars_max"):
            object.__setattr__(self, name, plain_number(getattr(self, name)))
        seconds, chars = self.seconds_max, self.output_chars_max
        if seconds is not None and not 0 < seconds <= threading.TIMEOUT_MAX:
            raise ToolError(f"seconds_max must be a positive number of seconds, not {seconds}")
        if chars is not None and chars < _OUTPUT_CHARS_LEAST:
            raise ToolError(f"output_chars_max must be {_OUTPUT_CHARS_LEAST} or more, not {chars}")


@overload
def tool(function: Function, /) -> Function: ...


@overload
def tool(
    *, seconds_max: float | None = None, output_chars_max: int | None = None
) -> Callable[[Function], Function]: ...


def tool(
    function: Function | None = None,
    /,
    *,
    seconds_max: float | None = None,
    output_chars_max: int | None = None,
) -> Function | Callable[[Function], Function]:
    """Declare a function as a tool, with its own limits if given: `@tool(seconds_max=5)`.

    Return the function itself. It is needed for limits only: a `ToolInterface` takes any function
    with type hints and a docstring. `seconds_max` limits a call, `output_chars_max` the characters
    of a result that the model reads. Raise ToolError if this is not a function or a limit is out of
    range.

    Example:
        >>> import tokentape as tt
        >>> @tt.tool(seconds_max=5)
        ... def count_words(text: str) -> int:
        ...     \"\"\"Count the words of a text.
        ...
        ...     Args:
        ...         text: Any text.
        ...     \"\"\"
        ...     return len(text.split())
        >>> tt.ToolInterface([count_words]).call("count_words", {"text": "to be or not"}).content
        '4'
    """
    limits = ToolLimits(seconds_max=seconds_max, output_chars_max=output_chars_max)

    def declare(function: Function) -> Function:
        if not inspect.isfunction(function):
            raise ToolError(
                f"{function!r} cannot be declared as a tool: write @tool above a `def`; "
                "declare a method in its class"
            )
        setattr(function, _LIMITS, limits)
        return function

    return declare if function is None else declare(function)


def declared_limits(function: Callable[..., Any]) -> ToolLimits | None:
    """Return the limits of a function that `tool` declared; None for any other function."""
    limits = getattr(function, _LIMITS, None)
    return limits if isinstance(limits, ToolLimits) else None
