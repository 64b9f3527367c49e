"""What an observer may look at while tokens are generated."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationState:
    """A sequence after one more token. To be looked at, not changed.

    `input_ids` are prompt and reply, int64 of shape (1, tokens); `attention_mask` has their shape
    and is all ones. `past_key_values` is the live cache: it holds all ids but the last.
    """

    input_ids: torch.Tensor
    past_key_values: Cache
    attention_mask: torch.Tensor
    generated_tokens: tuple[int, ...]
    finished: bool


TokenCallback = Callable[[int, torch.Tensor], None]
"""Called with each token id and its raw logits, float32 of shape (vocab,)."""

StateObserver = Callable[[GenerationState], None]
"""Called after each token."""
