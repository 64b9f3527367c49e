"""Tools that a model can be given: Python functions, their descriptions, and their results."""

import copy
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

from tokentape.generation.errors import ToolError
from tokentape.generation.tools.arguments import fit_arguments, nearest
from tokentape.generation.tools.schemas import documented, tool_schema
from tokentape.generation.tools.timeout import run_with_timeout

SECONDS_MAX = 60.0
OUTPUT_CHARS_MAX = 24_000
_OUTPUT_CHARS_LEAST = 200
_LIMITS = "_tokentape_limits"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolView:
    """A result with more behind it: the compact `view` is shown, the `payload` is kept.

    `tensors` says what was read: mappings with `name`, `shape`, `dtype` and `sha256`.
    """

    view: Any
    payload: Any
    tensors: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a call gave: `content` for the model to read, `payload` for the record, both JSON.

    A view longer than the tool's limit is cut in `content`, which then ends with a note, and is no
    JSON any more; `cut_chars` is how much of it was left out. The payload is always whole.
    """

    content: str
    payload: bytes
    tensors: tuple[Mapping[str, Any], ...]
    error: str | None
    duration_ms: float
    cut_chars: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """What a tool may take; None where it has no limit of its own."""

    seconds_max: float | None
    output_chars_max: int | None

    def __post_init__(self) -> None:
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
    """Mark a function as a tool, with limits of its own if need be: `@tool(seconds_max=5)`.

    The function stays what it is. One that is not marked is a tool as well, as soon as it is given
    to a `ToolInterface`. Raises ToolError for what is no function, and for limits that are none.
    """
    limits = _Limits(seconds_max=seconds_max, output_chars_max=output_chars_max)

    def flagged(function: Function) -> Function:
        if not inspect.isfunction(function):
            raise ToolError(
                f"{function!r} cannot be marked as a tool: @tool stands above a `def`; "
                "mark a method in its class"
            )
        setattr(function, _LIMITS, limits)
        return function

    return flagged if function is None else flagged(function)


class ToolInterface:
    """A set of tools, by the names of their functions.

    `seconds_max` and `output_chars_max` hold for each that has no limits of its own. Tools run one
    at a time, each call in a thread of its own and without gradients.
    """

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]],
        *,
        seconds_max: float = SECONDS_MAX,
        output_chars_max: int = OUTPUT_CHARS_MAX,
    ) -> None:
        """Each function needs type hints and a docstring with an `Args:` line per argument.

        Raises ToolError for one that has not, and for two that share a name.
        """
        if callable(functions):
            raise ToolError(f"tools are given as a list: ToolInterface([{functions!r}])")
        self._limits = _Limits(seconds_max=seconds_max, output_chars_max=output_chars_max)
        self._functions: dict[str, Callable[..., Any]] = {}
        self._schemas: dict[str, dict[str, Any]] = {}
        for function in functions:
            schema = tool_schema(function)
            if function.__name__ in self._functions:
                raise ToolError(f"two tools are called {function.__name__!r}: rename one")
            self._functions[function.__name__] = function
            self._schemas[function.__name__] = schema

    @classmethod
    def named(cls, names: Iterable[str]) -> "ToolInterface":
        """What is left of tools in a recording: their names, for calls of them to be read."""
        tools = cls([])
        for name in names:
            tools._functions[name] = _not_here
            tools._schemas[name] = {
                "name": name,
                "description": "",
                "parameters": {"type": "object", "properties": {}},
            }
        return tools

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._functions)

    def only(self, names: Iterable[str]) -> "ToolInterface":
        """The same tools, but those of other names. Raises ToolError for one that is not there."""
        chosen = copy.copy(self)
        wanted = tuple(names)
        for name in wanted:
            if name not in self._functions:
                raise ToolError(self.unknown(name))
        chosen._functions = {name: self._functions[name] for name in wanted}
        chosen._schemas = {name: self._schemas[name] for name in wanted}
        return chosen

    def get_available_tools(self) -> list[dict[str, Any]]:
        """JSON schemas of the tools: name, description, parameters with their defaults."""
        return copy.deepcopy(list(self._schemas.values()))

    def documentation(self) -> str:
        """The tools as a system prompt tells of them, a paragraph each."""
        return "\n\n".join(map(documented, self._schemas.values()))

    def unknown(self, name: str) -> str:
        """What there is to say of a tool that is not here."""
        there_are = f"there are {', '.join(self.names)}" if self.names else "there are no tools"
        return f"there is no tool {name!r}{nearest(name, self.names)}; {there_are}"

    def call(
        self, name: str, arguments: Mapping[str, Any], *, seconds_max: float | None = None
    ) -> ToolResult:
        """Run a tool. Whatever goes wrong in it, or in its arguments, is a result that says so.

        `seconds_max` takes the place of the tool's own limit. A tool that has no answer by then is
        left behind in its thread. Only Ctrl-C comes through.
        """
        limits = self._limits_of(name)
        seconds = _Limits(seconds_max=seconds_max, output_chars_max=None).seconds_max
        seconds = seconds or limits.seconds_max or SECONDS_MAX
        began = time.perf_counter()
        result = run_with_timeout(seconds, lambda: self._run(name, arguments))
        if result is None:
            result = failed_result(f"no answer within {seconds:g} s")
        content, cut_chars = _cut(result.content, limits.output_chars_max or OUTPUT_CHARS_MAX)
        return replace(
            result,
            content=content,
            cut_chars=cut_chars,
            duration_ms=(time.perf_counter() - began) * 1000.0,
        )

    def _limits_of(self, name: str) -> _Limits:
        function = self._functions.get(name)
        own = getattr(function, _LIMITS, self._limits)
        return _Limits(
            seconds_max=own.seconds_max or self._limits.seconds_max,
            output_chars_max=own.output_chars_max or self._limits.output_chars_max,
        )

    def _run(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        try:
            if name not in self._functions:
                raise ToolError(self.unknown(name))
            function = self._functions[name]
            value = function(**fit_arguments(function, self._schemas[name], arguments))
            result = value if isinstance(value, ToolView) else ToolView(view=value, payload=value)
            content, payload = _json(result.view), _json(result.payload).encode()
            content.encode()  # what is no text, such as half a surrogate pair, is the tool's error
            tensors = tuple(dict(tensor) for tensor in result.tensors)
            _json(tensors).encode()
        except BaseException as raised:  # the experimenter's code: it may even end its thread
            return failed_result(_described(raised))
        return ToolResult(
            content=content, payload=payload, tensors=tensors, error=None, duration_ms=0.0
        )


def _not_here(**arguments: Any) -> None:
    raise ToolError("the tool is known by its name alone")


def failed_result(error: str) -> ToolResult:
    """What a call gives that came to nothing: the error, in words that the model reads."""
    content = _json({"error": error})
    return ToolResult(
        content=content, payload=content.encode(), tensors=(), error=error, duration_ms=0.0
    )


def _described(raised: BaseException) -> str:
    """An error as the model and the record read it: always text, whatever the error is like."""
    try:
        error = str(raised) if isinstance(raised, ToolError) else repr(raised)
    except BaseException:  # an error's own repr is somebody's code, too
        error = type(raised).__name__
    return error.encode("utf-8", "backslashreplace").decode()


def _cut(content: str, chars_max: int) -> tuple[str, int]:
    """The text with a note in place of what is too much, and how many characters that was."""
    if len(content) <= chars_max:
        return content, 0
    left_out = len(content)  # as many digits as the note can have
    room = chars_max - len(_note(left_out, len(content)))
    # Between two values, if there is such a place not too far back: half a number misleads.
    places = (content.rfind(mark, room * 3 // 4, room) for mark in (", ", "\\n", " "))
    kept = content[: next((at for at in places if at > 0), room)]
    left_out = len(content) - len(kept)
    return kept + _note(left_out, len(content)), left_out


def _note(left_out: int, chars: int) -> str:
    return f" … [cut here: {left_out:,} of {chars:,} characters are left out; ask for less]"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "), allow_nan=False)
