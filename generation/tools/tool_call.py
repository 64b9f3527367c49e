"""A call of a tool, before it is run."""

from collections.abc import Mapping
from dataclasses import dataclass

from tokentape.generation.tools.validation import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool's name and the arguments to call it with.

    Example:
        >>> import tokentape as tt
        >>> tt.ToolCall(name="list_layers", arguments={"pattern": "*.mlp.*"}).name
        'list_layers'
    """

    name: str
    arguments: Mapping[str, JsonValue]
