"""Tools, templates to call them, and calls as models write them."""

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

import tokentape as tt

needs_response_templates = pytest.mark.skipif(
    not hasattr(PreTrainedTokenizerBase, "get_response_parser"),
    reason="this release of transformers cannot read calls with a response template",
)
RESPONSE_TEMPLATES = {
    "response_template",
    "gpt-oss",
    "response template",
    "response template with patterns",
}
"""Values of parameters of tests that need a response template."""

QWEN_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close": "<|im_end|>", "content": "text"},
    },
}


GPT_OSS_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "thinking": {"open": "<|channel|>analysis<|message|>", "close": "<|end|>"},
        "tool_calls": {
            "open_pattern": r"<\|channel\|>to=functions\.(?P<name>\w+)<\|message\|>",
            "close_pattern": r"<\|call\|>",
            "content": "json",
            "repeats": True,
            "transform": {"function": {"name": "{name}", "arguments": "{content}"}},
        },
    },
}


def look_up(name: str, top: int = 3) -> str:
    """
    Look something up.

    Args:
        name: What to look for.
        top: How many to give.
    """
    return name * top


def mix(values: list[Any], options: dict[str, Any] | None = None) -> int:
    """
    Mix some values.

    Args:
        values: What to mix.
        options: How to mix.
    """
    return len(values)


TOOLS = tt.ToolInterface([look_up, mix])


FORMATS = ("hermes", "llama3", "mistral", "python")


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
