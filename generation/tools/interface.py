"""Python functions as tools: their descriptions for a model, their calls and their results."""

import copy
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tokentape.generation.errors import ToolError
from tokentape.generation.tools.arguments import fit_arguments
from tokentape.generation.tools.declaration import (
    OUTPUT_CHARS_MAX,
    SECONDS_MAX,
    ToolLimits,
    declared_limits,
)
from tokentape.generation.tools.descriptions import describe_tool
from tokentape.generation.tools.failure import ToolFailure
from tokentape.generation.tools.schemas import tool_schema
from tokentape.generation.tools.sources import source_sha256
from tokentape.generation.tools.timeout import run_with_timeout
from tokentape.recorder.clock import elapsed_us
from tokentape.recorder.near_names import nearest
from tokentape.recorder.plain_values import plain_value
from tokentape.recorder.short_forms import quoted, short_repr

OnError = Literal["return", "raise"]
_NO_LIMITS = ToolLimits(seconds_max=None, output_chars_max=None)


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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
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

    def __repr__(self) -> str:
        size = f"{len(self.payload):,} bytes,"
        return short_repr(self, size, quoted(self.error or self.content))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    function: Callable[..., Any]
    schema: dict[str, Any]
    limits: ToolLimits
    """Those of the tool itself, else those of the set that it was made in."""
    on_error: OnError
    file: Mapping[str, str]
    """As `ToolInterface.in_file` records it; empty for a function of the caller's program."""


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
        defaults = ToolLimits(seconds_max=seconds_max, output_chars_max=output_chars_max)
        self._tools: dict[str, _Tool] = {}
        for function in functions:
            schema = tool_schema(function)
            name = function.__name__
            if name in self._tools:
                raise _name_clash(name)
            own = declared_limits(function) or defaults
            limits = ToolLimits(
                seconds_max=own.seconds_max or defaults.seconds_max,
                output_chars_max=own.output_chars_max or defaults.output_chars_max,
            )
            self._tools[name] = _Tool(
                function=function, schema=schema, limits=limits, on_error=on_error, file={}
            )

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
            tools._tools[schema["name"]] = _Tool(
                function=_known_by_name_only,
                schema=dict(schema),
                limits=_NO_LIMITS,
                on_error="return",
                file={},
            )
        return tools

    def __repr__(self) -> str:
        return short_repr(self, f"of {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tools)

    def only(self, names: Iterable[str]) -> "ToolInterface":
        """Return a copy with only the named tools. Raise ToolError for an unknown name."""
        chosen = copy.copy(self)
        wanted = tuple(names)
        for name in wanted:
            if name not in self._tools:
                raise ToolError(self.unknown_tool_message(name))
        chosen._tools = {name: self._tools[name] for name in wanted}
        return chosen

    def including(self, other: "ToolInterface | Sequence[Callable[..., Any]]") -> "ToolInterface":
        """Return the tools of both; functions become tools. Raise ToolError for a name of both.

        Each keeps its limits. Default tools still see the conversation that the model is in:
        `default_tools(lm).including([my_tool])`.
        """
        if not isinstance(other, ToolInterface):
            other = ToolInterface(other)
        for name in other.names:
            if name in self._tools:
                raise _name_clash(name)
        both = copy.copy(other if type(self) is ToolInterface else self)
        both._tools = self._tools | other._tools
        return both

    def in_file(self, name: str, sha256: str) -> "ToolInterface":
        """Return a copy whose tools are recorded with the file that they come from."""
        file = {"file": name, "file_sha256": sha256}
        copied = copy.copy(self)
        copied._tools = {each: replace(tool, file=file) for each, tool in self._tools.items()}
        return copied

    def sources(self) -> dict[str, dict[str, str]]:
        """Return, by name, the `sha256` of each tool's source and the file that it comes from.

        A tool of tokentape has none, and neither has one whose source Python cannot find.
        """
        found = {
            name: {"sha256": source_sha256(tool.function), **tool.file}
            for name, tool in self._tools.items()
        }
        return {name: each for name, each in found.items() if any(each.values())}

    def get_available_tools(self) -> list[dict[str, Any]]:
        """Return a JSON schema per tool: name, description, parameters and their defaults."""
        return copy.deepcopy([each.schema for each in self._tools.values()])

    def documentation(self) -> str:
        """Return a description of the tools for a system prompt, one paragraph per tool."""
        return "\n\n".join(describe_tool(each.schema) for each in self._tools.values())

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
        tool = self._tools.get(name)
        limits = _NO_LIMITS if tool is None else tool.limits
        seconds = ToolLimits(seconds_max=seconds_max, output_chars_max=None).seconds_max
        seconds = seconds or limits.seconds_max or SECONDS_MAX
        began = time.perf_counter()
        result = run_with_timeout(
            seconds,
            lambda: self._run(name, arguments),
            lambda frame: ToolFailure.by_timeout(seconds, frame),
        )
        if isinstance(result, ToolFailure):
            if (self._on_error if tool is None else tool.on_error) == "raise":
                raise result.error
            result = error_result(result.text, result.traceback)
        content, cut_chars = _cut(result.content, limits.output_chars_max or OUTPUT_CHARS_MAX)
        return replace(
            result,
            content=content,
            cut_chars=cut_chars,
            duration_us=elapsed_us(began),
        )

    def _run(self, name: str, arguments: Mapping[str, Any]) -> ToolResult | ToolFailure:
        try:
            tool = self._tools.get(name)
            if tool is None:
                raise ToolError(self.unknown_tool_message(name))
            plain = plain_value(arguments)
            value = tool.function(**fit_arguments(tool.function, tool.schema, plain))
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


def _name_clash(name: str) -> ToolError:
    return ToolError(f"two tools are called {name!r}: rename one")


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
