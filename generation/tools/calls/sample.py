"""Sample calls of a real tool, as an example for a model."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.hf.bounded_templates import apply_chat_template

_SAMPLES: Mapping[str, Any] = {
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "array": [],
    "object": {},
    "null": None,
}


def sample_arguments(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value for each required argument; for the first argument if none is required."""
    properties = schema["parameters"]["properties"]
    names = schema["parameters"].get("required") or list(properties)[:1]
    return {name: _sample(name, properties[name]) for name in names}


def _sample(name: str, schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    if schema.get("anyOf"):
        return _sample(name, schema["anyOf"][0])
    declared = schema.get("type", "string")
    kind = declared if isinstance(declared, str) else declared[0]
    if kind == "array" and schema.get("items"):
        return [_sample(name, schema["items"])]
    if kind == "array" and schema.get("prefixItems"):
        return [_sample(name, each) for each in schema["prefixItems"]]
    return _SAMPLES.get(kind, f"a {name}")


def render_call(tokenizer: PreTrainedTokenizerBase, name: str, arguments: Mapping[str, Any]) -> str:
    """Return a call as the chat template renders one in the history; "" if it does not."""
    asked: list[dict[str, Any]] = [{"role": "user", "content": "?"}]
    call = {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
    answered = [*asked, {"role": "assistant", "content": "", "tool_calls": [call]}]
    try:
        before = apply_chat_template(tokenizer, asked, tokenize=False, add_generation_prompt=True)
        after = apply_chat_template(tokenizer, answered, tokenize=False)
    except Exception:  # a template may raise anything
        return ""
    if not isinstance(before, str) or not isinstance(after, str) or not after.startswith(before):
        return ""
    written = after[len(before) :].strip()
    return written.removesuffix(str(tokenizer.eos_token or "")).strip()
