"""The system prompt with its placeholders, and the advice on saving context."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

TOOLS_PLACEHOLDER = "{tools}"
"""Stands in a system prompt for the descriptions of the tools, and how to call them."""
_PLACEHOLDER = re.compile(r"\{(tools|memory)\}")


def initial_prompt(system_prompt: str, *, tools: str, memory: str) -> str:
    """Return the system prompt with `{tools}` and `{memory}` replaced by these texts."""
    texts = {"tools": tools, "memory": memory}
    return _PLACEHOLDER.sub(lambda found: texts[found[1]], system_prompt)


def memory_instructions(schemas: Sequence[Mapping[str, Any]], context_tokens: int | None) -> str:
    """Return instructions to use the compact views of tools, and how long the context is.

    `schemas` are those of `ToolInterface.get_available_tools`.
    """
    room = "" if context_tokens is None else f", which holds {context_tokens:,} tokens"
    lines = [
        "MEMORY MANAGEMENT",
        f"Everything that you read and write stays in your context{room}. When it is full, the "
        "oldest results may be taken out.",
    ]
    compact = [schema for schema in schemas if "compact" in _parameters(schema)]
    if compact:
        lines.append("IMPORTANT: use compact=True when you examine several layers:")
        lines += [f"- {schema['name']}({_example(schema)}compact=True)" for schema in compact]
        lines.append(
            "It makes results about 75 % shorter. Ask for the full result of one layer only where "
            "a number is missing."
        )
    return "\n".join(lines)


def _parameters(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters: Mapping[str, Any] = schema["parameters"]["properties"]
    return parameters


def _example(schema: Mapping[str, Any]) -> str:
    return "layer_name=[…], " if "layer_name" in _parameters(schema) else ""
