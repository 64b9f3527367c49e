"""What holds the caches of one key, and how it gives them up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers.cache_utils import Cache

from tokentape.generation.cache.reuse import Reuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Something that can be given up: when it was last of use, and how many tokens would go."""

    used_at: int
    tokens: int
    holds_system_prompt: bool


class CacheBackend(Protocol):
    """Caches that are valid under the same key, found by the ids that they hold."""

    def look(self, prompt: Sequence[int]) -> Reuse:
        """How far a prompt is held; nothing is changed."""

    def take(self, prompt: Sequence[int], now: int) -> tuple[Reuse, Cache | None]:
        """The best start for a prompt: the decision, and a cache of exactly the reused ids.

        The cache is the caller's to fill; `keep` brings it back. None where nothing is reused.
        """

    def keep(self, ids: Sequence[int], cache: Cache, now: int) -> None:
        """Keep what a turn left behind."""

    def forget_turn(self) -> None:
        """Fall back to what was there before the turn: what it left is too large to keep."""

    def candidate(self, system_ids: Sequence[int]) -> Candidate | None:
        """What would be given up first; None where nothing is left."""

    def evict(self, system_ids: Sequence[int]) -> None:
        """Give that up, but not the system prompt's part of it if there is more to it."""

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every tensor that is held."""
