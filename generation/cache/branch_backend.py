"""A cache backend for sequences with shared prefixes, which stores each token once.

The trunk is the most recently used sequence, in a cache that can be appended to. A tail holds the
states of another sequence from the position where it diverges. To return to that sequence, the
trunk is cropped at the divergence, the cropped states become a tail, and the states of the other
tail are appended. It requires caches that can be cropped at any position.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.cache.backend import EvictionCandidate
from tokentape.generation.cache.reuse import Reuse, common_prefix_length, decide_reuse
from tokentape.recorder.events import CacheDecision

States = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of some tokens, a pair for each layer, shape (1, heads, tokens, dim)."""


@dataclass(slots=True)
class _Trunk:
    ids: tuple[int, ...]
    cache: Cache
    used_at: int


@dataclass(slots=True)
class _Tail:
    """The states of `ids[start:]`. Earlier states are in the trunk or in other tails."""

    ids: tuple[int, ...]
    start: int
    states: States
    used_at: int
    # The cache that owns the states if they are not copies. While it is alive, its buffer counts
    # as shared, so that no other cache overwrites them (see `hf.GrowingLayer`).
    owner: Cache | None = None

    def slice(self, start: int, end: int) -> States:
        """Return views of the states of `ids[start:end]`."""
        first, last = start - self.start, end - self.start
        return [(k[:, :, first:last], v[:, :, first:last]) for k, v in self.states]

    def shorten(self, start: int, end: int) -> None:
        """Keep only the states of `ids[start:end]`, copied so that the rest is freed."""
        self.states = [(k.clone(), v.clone()) for k, v in self.slice(start, end)]
        self.ids, self.start, self.owner = self.ids[:end], start, None


class BranchBackend:
    """A `CacheBackend` of one trunk and its tails.

    `make_cache` returns an empty cache of the model.
    """

    def __init__(self, make_cache: Callable[[], Cache]) -> None:
        self._make_cache = make_cache
        self._trunk: _Trunk | None = None
        self._tails: list[_Tail] = []

    def peek(self, prompt: Sequence[int]) -> Reuse:
        return decide_reuse(self._path(prompt)[0], prompt)

    def acquire(self, prompt: Sequence[int], now: int) -> tuple[Reuse, Cache | None]:
        longest, pieces = self._path(prompt)
        reuse = decide_reuse(longest, prompt)
        if not reuse.reused_tokens:
            return reuse, None
        ids = tuple(prompt[: reuse.reused_tokens])
        try:
            cache = self._assemble(ids, pieces, now)
        except Exception as error:  # any failure leaves layers of different lengths
            self._trunk = None
            # Tails that continue the trunk are now unreachable.
            self._tails = [tail for tail in self._tails if not tail.start]
            failed = f"crop_failed:{type(error).__name__}"
            return Reuse(
                decision=CacheDecision.MISS, reason=failed, cached_tokens=len(longest)
            ), None
        self._drop_covered(ids)
        # A copy stays here during the turn, and after it if the turn is interrupted.
        self._trunk = _Trunk(ids, hf.fork(cache), now)
        return reuse, cache

    def put(self, ids: Sequence[int], cache: Cache, now: int) -> None:
        stored = tuple(ids)
        self._displace(common_prefix_length(self._trunk.ids, stored) if self._trunk else 0)
        self._trunk = _Trunk(stored, cache, now)
        self._drop_covered(stored)

    def rollback(self) -> None:
        if self._trunk is not None:
            hf.compact(self._trunk.cache)

    def eviction_candidate(self, system_ids: Sequence[int]) -> EvictionCandidate | None:
        oldest = self._oldest(system_ids)
        if oldest is None:
            return None
        system = _system_tokens(oldest.ids, system_ids)
        return EvictionCandidate(
            used_at=oldest.used_at,
            tokens=len(oldest.ids) - system or len(oldest.ids),
            holds_system_prompt=system == len(oldest.ids),
        )

    def evict(self, system_ids: Sequence[int]) -> None:
        oldest = self._oldest(system_ids)
        if oldest is None:
            return
        system = _system_tokens(oldest.ids, system_ids)
        ids = oldest.ids
        if isinstance(oldest, _Trunk):
            remaining = system if system < len(ids) else 0
            if remaining:
                hf.crop(oldest.cache, remaining)
                hf.compact(oldest.cache)
                oldest.ids = ids[:remaining]
            else:
                self._trunk = None
        elif oldest.start < system < len(ids):
            remaining = system
            oldest.shorten(oldest.start, remaining)
        else:
            remaining = oldest.start
            self._tails.remove(oldest)
        self._drop_dependents(ids, remaining)

    def tensors(self) -> Iterator[torch.Tensor]:
        if self._trunk is not None:
            for layer in self._trunk.cache.layers:
                yield from hf.tensors_of(vars(layer))
        for tail in self._tails:
            yield from hf.tensors_of(tail.states)

    def _path(self, prompt: Sequence[int]) -> tuple[tuple[int, ...], list[tuple[_Tail, int]]]:
        """Return the cached ids with the longest prefix of the prompt, and the tails on the way.

        Each tail comes with the position up to which its ids equal the prompt's.
        """
        longest = self._trunk.ids if self._trunk is not None else ()
        position = common_prefix_length(longest, prompt)
        pieces: list[tuple[_Tail, int]] = []
        while True:
            reaching = [
                (common_prefix_length(tail.ids, prompt), tail)
                for tail in self._tails
                if tail.start <= position
            ]
            end, tail = max(reaching, key=lambda pair: pair[0], default=(0, None))
            if tail is None or end <= position:
                if not longest and tail is not None:
                    longest = tail.ids
                return longest, pieces
            pieces.append((tail, end))
            longest, position = tail.ids, end

    def _assemble(
        self, ids: tuple[int, ...], pieces: Sequence[tuple[_Tail, int]], now: int
    ) -> Cache:
        """Return a cache of exactly these ids: the cropped trunk, then the states of the pieces."""
        position = common_prefix_length(self._trunk.ids, ids) if self._trunk is not None else 0
        self._displace(position)
        trunk, self._trunk = self._trunk, None
        if trunk is None or not position:
            cache = self._make_cache()
        else:
            cache = trunk.cache
            hf.crop(cache, position)
        for tail, reach in pieces:
            end = min(reach, len(ids))
            if end > position:
                hf.put_states(cache, tail.slice(position, end))
                tail.used_at = now
                position = end
        return cache

    def _displace(self, shared: int) -> None:
        """Store the states of the trunk beyond its first `shared` tokens as a tail."""
        trunk = self._trunk
        if trunk is None or shared >= len(trunk.ids):
            return
        owner: Cache | None = None
        if shared:
            states = hf.take_states(trunk.cache, shared, len(trunk.ids))
        else:
            # Nothing is appended to this trunk any more: its tensors need no copy.
            layers: list[Any] = trunk.cache.layers
            states = [(layer.keys, layer.values) for layer in layers]
            owner = trunk.cache
        self._tails.append(_Tail(trunk.ids, shared, states, trunk.used_at, owner))

    def _drop_covered(self, ids: tuple[int, ...]) -> None:
        """Free the states in tails that the trunk, which holds `ids`, now holds too."""
        for tail in list(self._tails):
            common = common_prefix_length(tail.ids, ids)
            if common == len(tail.ids):
                self._tails.remove(tail)
            elif common > tail.start:
                tail.shorten(common, len(tail.ids))

    def _drop_dependents(self, ids: tuple[int, ...], remaining: int) -> None:
        """Drop the tails that build on evicted states: those of `ids[remaining:]`.

        Each token is stored once, so no other entry can supply the states.
        """
        self._tails = [
            tail
            for tail in self._tails
            if tail.start <= remaining or common_prefix_length(tail.ids, ids) <= remaining
        ]

    def _oldest(self, system_ids: Sequence[int]) -> "_Trunk | _Tail | None":
        """Return the least recently used tail, else the trunk; the bare system prompt last."""
        entries: list[_Trunk | _Tail] = [*self._tails]
        if self._trunk is not None:
            entries.append(self._trunk)
        system = tuple(system_ids)
        return min(
            entries,
            key=lambda entry: (entry.ids == system, isinstance(entry, _Trunk), entry.used_at),
            default=None,
        )


def _system_tokens(ids: Sequence[int], system_ids: Sequence[int]) -> int:
    """Return the length of the system prompt if the ids begin with all of it, else zero."""
    complete = common_prefix_length(ids, system_ids) == len(system_ids)
    return len(system_ids) if complete else 0
