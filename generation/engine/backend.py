"""The interface between one sequence and whatever computes its logits."""

from typing import Protocol

import torch
from transformers.cache_utils import Cache


class LogitsBackend(Protocol):
    """Forwards of the tokens of a reply through a model, and the KV cache that they fill.

    `hf.Decoder` forwards its sequence alone, `batch.SharedBackend` together with others. A turn
    relies on nothing but these methods.
    """

    @property
    def cache(self) -> Cache:
        """The live KV cache. After a step it holds every id but the last."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Forward the last of `ids`, int64 of shape (1, tokens), onto the cache.

        Return its logits, float32 of shape (1, vocab).
        """

    def holds(self, cache: Cache, tokens: int) -> bool:
        """Return whether `cache` is the live cache and holds exactly this many tokens."""
