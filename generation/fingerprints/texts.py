"""Hashes of tokenizers and chat templates."""

import hashlib
import json
from typing import Any

from transformers import PreTrainedTokenizerBase


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of the tokenizer's settings; of the vocabulary for a slow tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Truncation and padding are left over from the last call of the tokenizer.
        described = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    else:
        described = {"vocab": _with_texts(tokenizer.get_vocab()), "class": type(tokenizer).__name__}
    return json_sha256(described)


def _with_texts(vocabulary: dict[Any, int]) -> dict[str, int]:
    """Return the vocabulary with hexadecimal digits for tokens that are bytes (Qwen 1, ChatGLM)."""
    return {
        token if isinstance(token, str) else f"bytes {bytes(token).hex()}": number
        for token, number in vocabulary.items()
    }


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of the chat template; empty if the tokenizer has none."""
    template: Any = tokenizer.chat_template
    return "" if template is None else json_sha256(template)


def json_sha256(value: Any) -> str:
    """Return the hexadecimal sha256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
