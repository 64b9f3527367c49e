"""A cache backend for caches that cannot be cropped: it stores copies of complete caches.

A snapshot serves only prompts that begin with all of its ids. A copy of a recurrent state is
small, and keys and values are shared with the sequence that is appended to. A sliding-window cache
shorter than its window still holds every token and is cropped like any other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.cache.backend import EvictionCandidate
from tokentape.generation.cache.reuse import Reuse, common_prefix_length, decide_reuse
from tokentape.recorder.events import CacheDecision


@dataclass(slots=True)
class _Snapshot:
    ids: tuple[int, ...]
    cache: Cache
    used_at: int


class SnapshotBackend:
    """A `CacheBackend` of complete caches.

    With `copies=False`, for caches that cannot be copied, `acquire` removes the cache that it
    returns instead of copying it.
    """

    def __init__(self, *, copies: bool) -> None:
        self._copies = copies
        self._snapshots: list[_Snapshot] = []

    def peek(self, prompt: Sequence[int]) -> Reuse:
        return self._find(prompt)[0]

    def acquire(self, prompt: Sequence[int], now: int) -> tuple[Reuse, Cache | None]:
        reuse, best = self._find(prompt)
        if best is None:
            return reuse, None
        best.used_at = now
        if not self._copies:
            self._snapshots.remove(best)
            return reuse, best.cache
        try:
            cache = hf.fork(best.cache)
            if reuse.reused_tokens < len(best.ids):
                hf.crop(cache, reuse.reused_tokens)
        except Exception as error:  # any failure leaves layers of different lengths
            failed = f"crop_failed:{type(error).__name__}"
            return Reuse(
                decision=CacheDecision.MISS, reason=failed, cached_tokens=len(best.ids)
            ), None
        return reuse, cache

    def _find(self, prompt: Sequence[int]) -> tuple[Reuse, _Snapshot | None]:
        """Return the decision and the snapshot to reuse, or None if there is no usable one."""
        if not self._snapshots:
            return decide_reuse((), prompt), None
        longest = max(self._snapshots, key=lambda each: common_prefix_length(each.ids, prompt))
        best = max(self._snapshots, key=lambda each: self._usable_tokens(each, prompt))
        usable = self._usable_tokens(best, prompt)
        kind = hf.layer_kinds(longest.cache)[0]
        reuse = decide_reuse(longest.ids, prompt).limited_to(usable, f"not_croppable:{kind}")
        return reuse, best if usable else None

    def put(self, ids: Sequence[int], cache: Cache, now: int) -> None:
        stored = tuple(ids)
        self._snapshots = [each for each in self._snapshots if each.ids != stored]
        self._snapshots.append(_Snapshot(stored, cache, now))

    def rollback(self) -> None:
        """Do nothing: the snapshots from before the turn were not changed."""

    def eviction_candidate(self, system_ids: Sequence[int]) -> EvictionCandidate | None:
        oldest = self._oldest(system_ids)
        if oldest is None:
            return None
        return EvictionCandidate(
            used_at=oldest.used_at,
            tokens=len(oldest.ids),
            holds_system_prompt=oldest.ids == tuple(system_ids),
        )

    def evict(self, system_ids: Sequence[int]) -> None:
        oldest = self._oldest(system_ids)
        if oldest is not None:
            self._snapshots.remove(oldest)

    def tensors(self) -> Iterator[torch.Tensor]:
        for each in self._snapshots:
            for layer in each.cache.layers:
                yield from hf.tensors_of(vars(layer))

    def _usable_tokens(self, snapshot: _Snapshot, prompt: Sequence[int]) -> int:
        """Return how many tokens of the snapshot the prompt can reuse."""
        common = min(common_prefix_length(snapshot.ids, prompt), len(prompt) - 1)
        complete = common == len(snapshot.ids)
        return common if complete or (self._copies and hf.can_crop(snapshot.cache)) else 0

    def _oldest(self, system_ids: Sequence[int]) -> _Snapshot | None:
        system = tuple(system_ids)
        return min(
            self._snapshots, key=lambda each: (each.ids == system, each.used_at), default=None
        )
