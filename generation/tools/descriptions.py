"""Descriptions of tools for system prompts, from their JSON schemas."""

import json
from collections.abc import Mapping
from typing import Any


def describe_tool(schema: Mapping[str, Any]) -> str:
    """Return a tool's description and one line per argument, for a system prompt."""
    lines = [f"{schema['name']}: {' '.join(schema['description'].split())}"]
    required = schema["parameters"].get("required", [])
    for name, parameter in schema["parameters"]["properties"].items():
        need = "required" if name in required else "optional"
        if "default" in parameter:
            need += f", default {json.dumps(parameter['default'], ensure_ascii=False)}"
        kind = type_in_words(parameter)
        lines.append(f"- {name} ({kind}, {need}): {parameter.get('description', '')}".rstrip(": "))
    return "\n".join(lines)


def type_in_words(schema: Mapping[str, Any]) -> str:
    """Return a schema's type in words, e.g. `string or array of string`, `"mean" or "zero"`."""
    if "enum" in schema:
        kinds = [json.dumps(each, ensure_ascii=False) for each in schema["enum"]]
    elif "anyOf" in schema:
        kinds = [type_in_words(each) for each in schema["anyOf"]]
    elif isinstance(schema.get("type"), list):
        kinds = list(schema["type"])
    elif schema.get("type") == "array" and schema.get("items"):
        kinds = [f"array of {type_in_words(schema['items'])}"]
    else:
        kinds = [schema.get("type", "anything")]
    if schema.get("nullable"):
        kinds.append("null")
    return " or ".join(kinds)
