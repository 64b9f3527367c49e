"""What an observer may look at while tokens are generated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from transformers.cache_utils import Cache


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationState:
    """A sequence after one more token. To be looked at, not changed.

    `input_ids` are prompt and reply, int64 of shape (1, tokens); `attention_mask` has their shape
    and is all ones. `past_key_values` is the live cache: it holds all ids but the last. `step` is
    that of the token in its turn, `logits` are the raw ones that it was drawn from, float32 of
    shape (vocab,), and `entropy` is theirs, in nats. `hidden_states` has, for each layer that was
    asked for, what it gave at the position whose logits these are, shape (hidden,): that of the
    same forward.
    """

    input_ids: torch.Tensor
    past_key_values: Cache
    attention_mask: torch.Tensor
    generated_tokens: tuple[int, ...]
    finished: bool
    step: int
    logits: torch.Tensor
    entropy: float
    hidden_states: Mapping[str, torch.Tensor] = field(default_factory=dict)


TokenCallback = Callable[[int, torch.Tensor], None]
"""Called with each token id and its raw logits, float32 of shape (vocab,)."""

StateObserver = Callable[[GenerationState], None]
"""Called after each token."""

Pause = Callable[[str], bool]
"""Called after each token with the text of the reply so far; True stops it for a tool call."""
