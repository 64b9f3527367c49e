"""Python functions as tools: their descriptions for a model, their calls and their results."""

import copy
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, overload

from tokentape.generation.errors import ToolError
from tokentape.generation.tools.arguments import fit_arguments
from tokentape.generation.tools.failure import ToolFailure
from tokentape.generation.tools.schemas import describe_tool, tool_schema
from tokentape.generation.tools.timeout import run_with_timeout
from tokentape.recorder.clock import elapsed_us
from tokentape.recorder.near_names import nearest
from tokentape.recorder.plain_values import plain_number, plain_value

SECONDS_MAX = 60.0
OUTPUT_CHARS_MAX = 24_000
_OUTPUT_CHARS_LEAST = 200
_LIMITS = "_tokentape_limits"

OnError = Literal["return", "raise"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolView:
    """The return value of a tool that shows the model less than it records.

    Example:
        >>> import tokentape as tt
        >>> tt.ToolView(view={"mean": 0.5}, payload={"mean": 0.5, "values": [0.25, 0.75]}).view
        {'mean': 0.5}
    """

    view: Any
    """Shown to the model, as JSON."""
    payload: Any
    """Recorded, as JSON; not shown."""
    tensors: tuple[Mapping[str, Any], ...] = ()
    """The tensors that were read: mappings with `name`, `shape`, `dtype` and `sha256`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """The result of a tool call, or its error."""

    content: str
    """What the model reads: JSON, or, if `cut_chars` > 0, the start of it and a note."""
    payload: bytes
    """What is recorded: JSON in UTF-8, never shortened."""
    tensors: tuple[Mapping[str, Any], ...]
    """The tensors that were read: mappings with `name`, `shape`, `dtype` and `sha256`."""
    error: str | None
    duration_us: int
    cut_chars: int = 0
    """Characters that the tool's `output_chars_max` removed from the end of `content`."""
    traceback: str = ""
    """Where the tool failed, as Python prints it, or where it was when its time was over.

    Empty if it did not fail. A ToolError is a message to the model, and no failure of the tool.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class _ToolLimits:
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
    limits = _ToolLimits(seconds_max=seconds_max, output_chars_max=output_chars_max)

    def declare(function: Function) -> Function:
        if not inspect.isfunction(function):
            raise ToolError(
                f"{function!r} cannot be declared as a tool: write @tool above a `def`; "
                "declare a method in its class"
            )
        setattr(function, _LIMITS, limits)
        return function

    return declare if function is None else declare(function)


class ToolInterface:
    """A set of tools, named after their functions.

    `seconds_max` and `output_chars_max` are the limits of tools without their own. A call runs in a
    new thread, without gradients; calls do not run in parallel. With `on_error="raise"`, for the
    development of tools, an error is raised instead of returned.

    Example:
        >>> import tokentape as tt
        >>> def double(number: int) -> int:
        ...     \"\"\"Double a number.
        ...
        ...     Args:
        ...         number: Any integer.
        ...     \"\"\"
        ...     return 2 * number
        >>> tools = tt.ToolInterface([double])
        >>> tools.names
        ('double',)
        >>> tools.call("double", {"number": "21"}).content
        '42'
    """

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]],
        *,
        seconds_max: float = SECONDS_MAX,
        output_chars_max: int = OUTPUT_CHARS_MAX,
        on_error: OnError = "return",
    ) -> None:
        """Build the JSON schemas of the tools from their type hints and docstrings.

        Raise ToolError for a function without a type hint or an `Args:` line for each argument, and
        for two functions with the same name.
        """
        if callable(functions):
            raise ToolError(f"tools are given as a list: ToolInterface([{functions!r}])")
        if on_error not in ("return", "raise"):
            raise ToolError(f"on_error must be 'return' or 'raise', not {on_error!r}")
        self._on_error = on_error
        self._limits = _ToolLimits(seconds_max=seconds_max, output_chars_max=output_chars_max)
        self._functions: dict[str, Callable[..., Any]] = {}
        self._schemas: dict[str, dict[str, Any]] = {}
        for function in functions:
            schema = tool_schema(function)
            if function.__name__ in self._functions:
                raise ToolError(f"two tools are called {function.__name__!r}: rename one")
            self._functions[function.__name__] = function
            self._schemas[function.__name__] = schema

    @classmethod
    def from_names(cls, names: Iterable[str]) -> "ToolInterface":
        """Return tools with names only, as a recording holds them.

        Calls of them can be parsed; running one gives an error.
        """
        parameters = {"type": "object", "properties": {}}
        return cls.from_schemas(
            {"name": name, "description": "", "parameters": parameters} for name in names
        )

    @classmethod
    def from_schemas(cls, schemas: Iterable[Mapping[str, Any]]) -> "ToolInterface":
        """Return tools with schemas only; see `from_names`."""
        tools = cls([])
        for schema in schemas:
            tools._functions[schema["name"]] = _known_by_name_only
            tools._schemas[schema["name"]] = dict(schema)
        return tools

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._functions)

    def only(self, names: Iterable[str]) -> "ToolInterface":
        """Return a copy with only the named tools. Raise ToolError for an unknown name."""
        chosen = copy.copy(self)
        wanted = tuple(names)
        for name in wanted:
            if name not in self._functions:
                raise ToolError(self.unknown_tool_message(name))
        chosen._functions = {name: self._functions[name] for name in wanted}
        chosen._schemas = {name: self._schemas[name] for name in wanted}
        return chosen

    def get_available_tools(self) -> list[dict[str, Any]]:
        """Return a JSON schema per tool: name, description, parameters and their defaults."""
        return copy.deepcopy(list(self._schemas.values()))

    def documentation(self) -> str:
        """Return a description of the tools for a system prompt, one paragraph per tool."""
        return "\n\n".join(map(describe_tool, self._schemas.values()))

    def unknown_tool_message(self, name: str) -> str:
        """Return an error message for a name that is no tool: the nearest names, and all names."""
        there_are = f"there are {', '.join(self.names)}" if self.names else "there are no tools"
        return f"there is no tool {name!r}{nearest(name, self.names)}; {there_are}"

    def call(
        self, name: str, arguments: Mapping[str, Any], *, seconds_max: float | None = None
    ) -> ToolResult:
        """Run a tool and return its result; any error is a result too, with `error` set.

        `seconds_max` overrides the tool's limit. A tool that exceeds it is abandoned in its thread.
        Ctrl-C in the calling thread is the only exception that is raised, unless the tools were
        made with `on_error="raise"`: then the exception of the tool is raised, ToolError for
        invalid arguments, and TimeoutError.
        """
        limits = self._limits_of(name)
        seconds = _ToolLimits(seconds_max=seconds_max, output_chars_max=None).seconds_max
        seconds = seconds or limits.seconds_max or SECONDS_MAX
        began = time.perf_counter()
        result = run_with_timeout(
            seconds,
            lambda: self._run(name, arguments),
            lambda frame: ToolFailure.by_timeout(seconds, frame),
        )
        if isinstance(result, ToolFailure):
            if self._on_error == "raise":
                raise result.error
            result = error_result(result.text, result.traceback)
        content, cut_chars = _cut(result.content, limits.output_chars_max or OUTPUT_CHARS_MAX)
        return replace(
            result,
            content=content,
            cut_chars=cut_chars,
            duration_us=elapsed_us(began),
        )

    def _limits_of(self, name: str) -> _ToolLimits:
        function = self._functions.get(name)
        limits = getattr(function, _LIMITS, self._limits)
        return _ToolLimits(
            seconds_max=limits.seconds_max or self._limits.seconds_max,
            output_chars_max=limits.output_chars_max or self._limits.output_chars_max,
        )

    def _run(self, name: str, arguments: Mapping[str, Any]) -> ToolResult | ToolFailure:
        try:
            if name not in self._functions:
                raise ToolError(self.unknown_tool_message(name))
            function = self._functions[name]
            plain = plain_value(arguments)
            value = function(**fit_arguments(function, self._schemas[name], plain))
        except BaseException as raised:  # user code: it may even raise SystemExit
            return ToolFailure.by_exception(raised)
        try:
            result = value if isinstance(value, ToolView) else ToolView(view=value, payload=value)
            content, payload = _json(result.view), _json(result.payload).encode()
            content.encode()  # an unpaired surrogate is an error of the tool
            tensors = tuple(plain_value(dict(tensor)) for tensor in result.tensors)
            _json(tensors).encode()
        except BaseException as raised:  # the methods of a value are user code, too
            return ToolFailure.by_result(raised)
        return ToolResult(
            content=content, payload=payload, tensors=tensors, error=None, duration_us=0
        )


def _known_by_name_only(**arguments: Any) -> None:
    raise ToolError("the tool cannot be run: only its name was recorded")


def error_result(error: str, traceback: str = "") -> ToolResult:
    """Return the result of a failed call: the error, as the model reads it."""
    content = _json({"error": error})
    return ToolResult(
        content=content,
        payload=content.encode(),
        tensors=(),
        error=error,
        duration_us=0,
        traceback=traceback,
    )


def _cut(content: str, chars_max: int) -> tuple[str, int]:
    """Return the text cut to `chars_max` with a note at its end, and the characters cut off."""
    if len(content) <= chars_max:
        return content, 0
    left_out = len(content)  # an upper bound, for the digits in the note
    room = chars_max - len(_note(left_out, len(content)))
    # Cut between two values if one ends in the last quarter: half a number would mislead.
    ends = (content.rfind(separator, room * 3 // 4, room) for separator in (", ", "\\n", " "))
    start = content[: next((end for end in ends if end > 0), room)]
    left_out = len(content) - len(start)
    return start + _note(left_out, len(content)), left_out


def _note(left_out: int, chars: int) -> str:
    return f" … [cut here: {left_out:,} of {chars:,} characters are left out; ask for less]"


def _json(value: Any) -> str:
    try:
        return _dumps(value)
    except TypeError as error:
        plain = plain_value(value)  # a key may be a number of numpy or torch
        if plain is value:
            raise error
    return _dumps(plain)


def _dumps(value: Any) -> str:
    return json.dumps(
        value, ensure_ascii=False, separators=(", ", ": "), allow_nan=False, default=_plain
    )


def _plain(value: Any) -> Any:
    """Return a number or an array of numpy or torch as JSON has it. Raise TypeError for another."""
    plain = plain_value(value)
    if plain is value:
        raise TypeError(f"{type(value).__name__} is not JSON serializable")
    return plain
