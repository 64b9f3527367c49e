"""Sums of what turns text into ids."""

import hashlib
import json
from typing import Any

from transformers import PreTrainedTokenizerBase


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of everything that turns text into ids; of the vocabulary where the tokenizer is slow."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Truncation and padding are settings of a call, left in the tokenizer by the last one.
        described = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    else:
        described = {"vocab": tokenizer.get_vocab(), "class": type(tokenizer).__name__}
    return json_sha256(described)


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of the chat template; empty where the tokenizer has none."""
    template: Any = tokenizer.chat_template
    return "" if template is None else json_sha256(template)


def json_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
