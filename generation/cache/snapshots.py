"""Caches that cannot be cut: whole copies, each of use to a prompt that begins with all its ids.

A copy of a recurrent state is small; keys and values are shared with the sequence that goes on.
A cache below its sliding window still has everything, and is cut like any other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.cache.backend import Candidate
from tokentape.generation.cache.reuse import Reuse, common_prefix_length, decide_reuse


@dataclass(slots=True)
class _Snapshot:
    ids: tuple[int, ...]
    cache: Cache
    used_at: int


class Snapshots:
    """See `Shelf`. With `copies=False` a cache is handed over, not copied: it goes one way only."""

    def __init__(self, *, copies: bool) -> None:
        self._copies = copies
        self._held: list[_Snapshot] = []

    def look(self, prompt: Sequence[int]) -> Reuse:
        return self._find(prompt)[0]

    def take(self, prompt: Sequence[int], now: int) -> tuple[Reuse, Cache | None]:
        reuse, best = self._find(prompt)
        if best is None:
            return reuse, None
        best.used_at = now
        if not self._copies:
            self._held.remove(best)
            return reuse, best.cache
        try:
            cache = hf.fork(best.cache)
            if reuse.reused_tokens < len(best.ids):
                hf.crop(cache, reuse.reused_tokens)
        except Exception as error:  # any failure leaves layers of different lengths
            failed = f"crop_failed:{type(error).__name__}"
            return Reuse(decision="miss", reason=failed, cached_tokens=len(best.ids)), None
        return reuse, cache

    def _find(self, prompt: Sequence[int]) -> tuple[Reuse, _Snapshot | None]:
        """The decision and the snapshot that serves it; None where none does."""
        if not self._held:
            return decide_reuse((), prompt), None
        furthest = max(self._held, key=lambda each: common_prefix_length(each.ids, prompt))
        best = max(self._held, key=lambda each: self._usable(each, prompt))
        usable = self._usable(best, prompt)
        kind = hf.layer_kinds(furthest.cache)[0]
        reuse = decide_reuse(furthest.ids, prompt).limited_to(usable, f"not_croppable:{kind}")
        return reuse, best if usable else None

    def keep(self, ids: Sequence[int], cache: Cache, now: int) -> None:
        kept = tuple(ids)
        self._held = [each for each in self._held if each.ids != kept]
        self._held.append(_Snapshot(kept, cache, now))

    def forget_turn(self) -> None:
        """What was there before is still there."""

    def candidate(self, system_ids: Sequence[int]) -> Candidate | None:
        first = self._first_to_go(system_ids)
        if first is None:
            return None
        return Candidate(
            used_at=first.used_at,
            tokens=len(first.ids),
            holds_system_prompt=first.ids == tuple(system_ids),
        )

    def evict(self, system_ids: Sequence[int]) -> None:
        first = self._first_to_go(system_ids)
        if first is not None:
            self._held.remove(first)

    def tensors(self) -> Iterator[torch.Tensor]:
        for each in self._held:
            for layer in each.cache.layers:
                yield from hf.tensors_of(vars(layer))

    def _usable(self, snapshot: _Snapshot, prompt: Sequence[int]) -> int:
        """How many of its tokens the prompt can begin with."""
        common = min(common_prefix_length(snapshot.ids, prompt), len(prompt) - 1)
        whole = common == len(snapshot.ids)
        return common if whole or (self._copies and hf.can_crop(snapshot.cache)) else 0

    def _first_to_go(self, system_ids: Sequence[int]) -> _Snapshot | None:
        system = tuple(system_ids)
        return min(self._held, key=lambda each: (each.ids == system, each.used_at), default=None)
