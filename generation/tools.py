"""Tools that a model can be given: Python functions, their descriptions, and their results."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers.utils.chat_template_utils import get_json_schema

from generation.errors import ToolError
from generation.introspection import WeightInspector
from generation.models import LoadedModel


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
    """What a call gave: `content` for the model to read, `payload` for the record, both JSON."""

    content: str
    payload: bytes
    tensors: tuple[Mapping[str, Any], ...]
    error: str | None
    duration_ms: float


class ToolInterface:
    """A set of tools, by the names of their functions."""

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        """Each function needs type hints and a docstring with an `Args:` line per argument."""
        self._functions = {function.__name__: function for function in functions}
        self._schemas = [get_json_schema(function)["function"] for function in functions]

    def get_available_tools(self) -> list[dict[str, Any]]:
        """JSON schemas of the tools: name, description, parameters."""
        return self._schemas

    def documentation(self) -> str:
        """The tools as a system prompt tells of them, a paragraph each."""
        return "\n\n".join(_documented(schema) for schema in self._schemas)

    def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Run a tool. Whatever goes wrong in it is a result that says so."""
        began = time.perf_counter()
        error: str | None = None
        try:
            if name not in self._functions:
                raise ToolError(
                    f"there is no tool {name!r}; there are {', '.join(self._functions)}"
                )
            value = self._functions[name](**arguments)
            result = value if isinstance(value, ToolView) else ToolView(view=value, payload=value)
            content, payload = _json(result.view), _json(result.payload).encode()
            content.encode()  # what is no text, such as half a surrogate pair, is the tool's error
        except Exception as raised:  # a tool is the experimenter's code: anything can come out
            error = str(raised) if isinstance(raised, ToolError) else repr(raised)
            result = ToolView(view=None, payload=None)
            content = json.dumps({"error": error})
            payload = content.encode()
        return ToolResult(
            content=content,
            payload=payload,
            tensors=result.tensors,
            error=error,
            duration_ms=(time.perf_counter() - began) * 1000.0,
        )


def default_tools(lm: LoadedModel) -> ToolInterface:
    """The tools with which a model looks at its own weights."""
    inspector = WeightInspector(lm.model)

    def get_weight_statistics(layer_name: str | list[str], compact: bool = True) -> ToolView:
        """
        Statistics of the weights of one or more of your own layers.

        Args:
            layer_name: The full name of a weight tensor, or a list of such names.
            compact: True (the default) for the essential numbers only; use it on several layers.
        """
        names = [layer_name] if isinstance(layer_name, str) else layer_name
        return ToolView(
            view=inspector.get_weight_statistics(layer_name, compact=compact),
            payload=inspector.get_weight_statistics(layer_name, compact=False),
            tensors=tuple(inspector.describe(name) for name in names),
        )

    return ToolInterface([get_weight_statistics])


def _documented(schema: Mapping[str, Any]) -> str:
    lines = [f"{schema['name']}: {' '.join(schema['description'].split())}"]
    required = schema["parameters"].get("required", [])
    for name, parameter in schema["parameters"]["properties"].items():
        need = "required" if name in required else "optional"
        lines.append(f"- {name} ({need}): {parameter.get('description', '')}")
    return "\n".join(lines)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "), allow_nan=False)
