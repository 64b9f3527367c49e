"""The interface between one sequence and whatever computes its logits."""

from typing import Protocol

import torch
from transformers.cache_utils import Cache


class LogitsBackend(Protocol):
    """Forwards of one sequence through a model, and the KV cache that they fill.

    `hf.Decoder` forwards its sequence alone. A turn relies on nothing but these methods, so another
    implementation may be one row of a forward over many sequences, or run in another process.
    """

    @property
    def cache(self) -> Cache:
        """The live KV cache. After a step it holds every id but the last."""

    def prefill(
        self, chunk_tokens: int | None = None, *, one_by_one: bool = False
    ) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Forward the part of the prompt that is not cached.

        Return the logits of the last position, float32 of shape (1, vocab), and the number of
        tokens in each forward. No forward has more than `chunk_tokens` tokens, if that is given;
        `one_by_one` forwards single tokens.
        """

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Forward the last of `ids`, int64 of shape (1, tokens), onto the cache.

        Return its logits, float32 of shape (1, vocab).
        """

    def holds(self, cache: Cache, tokens: int) -> bool:
        """Return whether `cache` is the live cache and holds exactly this many tokens."""
