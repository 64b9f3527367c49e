"""The protocol of a cache backend: the caches that are valid under one key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers.cache_utils import Cache

from tokentape.generation.cache.reuse import Reuse


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionCandidate:
    """The entry that a backend would evict next."""

    used_at: int
    """Logical time of its last use: the least recently used candidate of all backends goes."""
    tokens: int
    """Number of tokens that eviction frees."""
    holds_system_prompt: bool
    """Whether the entry is the system prompt and nothing else. Such entries go last."""


class CacheBackend(Protocol):
    """Caches that are valid under the same key, looked up by the ids that they hold."""

    def peek(self, prompt: Sequence[int]) -> Reuse:
        """Return how much of a prompt is cached, without changing anything."""

    def acquire(self, prompt: Sequence[int], now: int) -> tuple[Reuse, Cache | None]:
        """Return the decision for a prompt, and a cache of exactly the reused ids.

        The caller may append to the cache and hands it back with `put`. The cache is None if
        nothing is reused.
        """

    def put(self, ids: Sequence[int], cache: Cache, now: int) -> None:
        """Store a cache that holds `ids`. The backend owns it from then on."""

    def rollback(self) -> None:
        """Discard what the current turn appended; its cache is too large to store."""

    def eviction_candidate(self, system_ids: Sequence[int]) -> EvictionCandidate | None:
        """Return the entry that `evict` would remove, or None if the backend is empty."""

    def evict(self, system_ids: Sequence[int]) -> None:
        """Remove the candidate. A longer entry is cut to its system prompt instead."""

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield every tensor that the backend holds."""
