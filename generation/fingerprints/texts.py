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
        described = {"vocab": tokenizer.get_vocab(), "class": type(tokenizer).__name__}
    return json_sha256(described)


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of the chat template; empty if the tokenizer has none."""
    template: Any = tokenizer.chat_template
    return "" if template is None else json_sha256(template)


def json_sha256(value: Any) -> str:
    """Return the hexadecimal sha256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
