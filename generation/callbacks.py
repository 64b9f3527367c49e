"""The callbacks of a turn, and the state that an observer receives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from transformers.cache_utils import Cache

from tokentape.recorder.short_forms import short_repr


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class GenerationState:
    """A sequence after one more token. An observer must not change it."""

    input_ids: torch.Tensor
    """Prompt and reply, int64 of shape (1, tokens)."""
    past_key_values: Cache
    """The live KV cache, which holds all ids but the last."""
    attention_mask: torch.Tensor
    """Ones, in the shape of `input_ids`."""
    generated_tokens: tuple[int, ...]
    """The ids of the reply so far; of the current round, if the turn has several."""
    finished: bool
    """Whether the reply stops with this token."""
    step: int
    """Number of the token in its turn, from zero."""
    logits: torch.Tensor
    """The raw logits that the token was drawn from, float32 of shape (vocab,)."""
    entropy: float
    """The entropy of these logits, in nats."""
    hidden_states: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """The outputs of the observed layers at the position of these logits, shape (hidden,)."""

    def __repr__(self) -> str:
        facts = f"step {self.step}, {self.input_ids.shape[-1]:,} tokens,"
        return short_repr(self, facts, f"entropy {self.entropy:.3g}", *self.hidden_states)


TokenCallback = Callable[[int, torch.Tensor], None]
"""Called with each token id and its raw logits, float32 of shape (vocab,)."""

StateObserver = Callable[[GenerationState], None]
"""Called after each token."""

Pause = Callable[[str], bool]
"""Called after each token with the text of the reply so far; True stops it for a tool call."""
