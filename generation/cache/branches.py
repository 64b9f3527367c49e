"""Sequences that share their beginnings, each token of them kept once.

The trunk is the sequence that was used last, in a cache that is ready to be gone on with. A tail
is the part of another sequence that left it: going back to that one cuts the trunk where they
part, keeps what was cut as a tail, and puts the other tail in its place. For caches that can be
cut anywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.cache.backend import Candidate
from tokentape.generation.cache.reuse import Reuse, common_prefix_length, decide_reuse

States = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of some tokens, a pair for each layer, shape (1, heads, tokens, dim)."""


@dataclass(slots=True)
class _Trunk:
    ids: tuple[int, ...]
    cache: Cache
    used_at: int


@dataclass(slots=True)
class _Tail:
    """The states of `ids[start:]`; those before are in the trunk or in other tails."""

    ids: tuple[int, ...]
    start: int
    states: States
    used_at: int
    # Whose tensors they are, where they are no copies: as long as it lives nobody writes to them.
    owner: Cache | None = None

    def part(self, start: int, end: int) -> States:
        first, last = start - self.start, end - self.start
        return [(k[:, :, first:last], v[:, :, first:last]) for k, v in self.states]

    def shorten(self, start: int, end: int) -> None:
        """Keep `ids[start:end]` only, and give back the storage of the rest."""
        self.states = [(k.clone(), v.clone()) for k, v in self.part(start, end)]
        self.ids, self.start, self.owner = self.ids[:end], start, None


class Branches:
    """See `Shelf`."""

    def __init__(self, make_cache: Callable[[], Cache]) -> None:
        self._make_cache = make_cache
        self._trunk: _Trunk | None = None
        self._tails: list[_Tail] = []

    def look(self, prompt: Sequence[int]) -> Reuse:
        return decide_reuse(self._path(prompt)[0], prompt)

    def take(self, prompt: Sequence[int], now: int) -> tuple[Reuse, Cache | None]:
        furthest, pieces = self._path(prompt)
        reuse = decide_reuse(furthest, prompt)
        if not reuse.reused_tokens:
            return reuse, None
        ids = tuple(prompt[: reuse.reused_tokens])
        try:
            cache = self._assemble(ids, pieces, now)
        except Exception as error:  # any failure leaves layers of different lengths
            self._trunk = None
            # What hangs on it is of no use any more; what begins by itself is.
            self._tails = [tail for tail in self._tails if not tail.start]
            failed = f"crop_failed:{type(error).__name__}"
            return Reuse(decision="miss", reason=failed, cached_tokens=len(furthest)), None
        self._drop_covered(ids)
        # Stays while the turn runs, and after it where the turn breaks off.
        self._trunk = _Trunk(ids, hf.fork(cache), now)
        return reuse, cache

    def keep(self, ids: Sequence[int], cache: Cache, now: int) -> None:
        kept = tuple(ids)
        self._displace(common_prefix_length(self._trunk.ids, kept) if self._trunk else 0)
        self._trunk = _Trunk(kept, cache, now)
        self._drop_covered(kept)

    def forget_turn(self) -> None:
        if self._trunk is not None:
            hf.compact(self._trunk.cache)

    def candidate(self, system_ids: Sequence[int]) -> Candidate | None:
        first = self._first_to_go(system_ids)
        if first is None:
            return None
        system = _whole_prefix(first.ids, system_ids)
        return Candidate(
            used_at=first.used_at,
            tokens=len(first.ids) - system or len(first.ids),
            holds_system_prompt=system == len(first.ids),
        )

    def evict(self, system_ids: Sequence[int]) -> None:
        first = self._first_to_go(system_ids)
        if first is None:
            return
        system = _whole_prefix(first.ids, system_ids)
        gone = first.ids
        if isinstance(first, _Trunk):
            kept = system if system < len(first.ids) else 0
            if kept:
                hf.crop(first.cache, kept)
                hf.compact(first.cache)
                first.ids = first.ids[:kept]
            else:
                self._trunk = None
        elif first.start < system < len(first.ids):
            kept = system
            first.shorten(first.start, kept)
        else:
            kept = first.start
            self._tails.remove(first)
        self._drop_dependents(gone, kept)

    def tensors(self) -> Iterator[torch.Tensor]:
        if self._trunk is not None:
            for layer in self._trunk.cache.layers:
                yield from hf.tensors_of(vars(layer))
        for tail in self._tails:
            yield from hf.tensors_of(tail.states)

    def _path(self, prompt: Sequence[int]) -> tuple[tuple[int, ...], list[tuple[_Tail, int]]]:
        """The cached sequence that leads furthest into the prompt, and the tails on the way.

        Each tail is given with the position up to which it is of use.
        """
        furthest = self._trunk.ids if self._trunk is not None else ()
        position = common_prefix_length(furthest, prompt)
        pieces: list[tuple[_Tail, int]] = []
        while True:
            reaching = [
                (common_prefix_length(tail.ids, prompt), tail)
                for tail in self._tails
                if tail.start <= position
            ]
            end, tail = max(reaching, key=lambda pair: pair[0], default=(0, None))
            if tail is None or end <= position:
                if not furthest and tail is not None:
                    furthest = tail.ids
                return furthest, pieces
            pieces.append((tail, end))
            furthest, position = tail.ids, end

    def _assemble(
        self, ids: tuple[int, ...], pieces: Sequence[tuple[_Tail, int]], now: int
    ) -> Cache:
        """A cache of exactly these ids: the trunk as far as it goes, then the pieces."""
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
                hf.put_states(cache, tail.part(position, end))
                tail.used_at = now
                position = end
        return cache

    def _displace(self, shared: int) -> None:
        """Keep as a tail what the trunk has beyond its first `shared` tokens."""
        trunk = self._trunk
        if trunk is None or shared >= len(trunk.ids):
            return
        owner: Cache | None = None
        if shared:
            states = hf.take_states(trunk.cache, shared, len(trunk.ids))
        else:
            # Nobody goes on with this trunk: its tensors need not be copied.
            layers: list[Any] = trunk.cache.layers
            states = [(layer.keys, layer.values) for layer in layers]
            owner = trunk.cache
        self._tails.append(_Tail(trunk.ids, shared, states, trunk.used_at, owner))

    def _drop_covered(self, ids: tuple[int, ...]) -> None:
        """Give back what tails hold of a sequence that the trunk holds now."""
        for tail in list(self._tails):
            common = common_prefix_length(tail.ids, ids)
            if common == len(tail.ids):
                self._tails.remove(tail)
            elif common > tail.start:
                tail.shorten(common, len(tail.ids))

    def _drop_dependents(self, ids: tuple[int, ...], kept: int) -> None:
        """Give up tails that begin with more of a sequence than is `kept` of it.

        Each token is held once: what is gone of a sequence, nobody else has.
        """
        self._tails = [
            tail
            for tail in self._tails
            if tail.start <= kept or common_prefix_length(tail.ids, ids) <= kept
        ]

    def _first_to_go(self, system_ids: Sequence[int]) -> "_Trunk | _Tail | None":
        """The tail that was of use the longest ago, then the trunk; the system prompt last."""
        held: list[_Trunk | _Tail] = [*self._tails]
        if self._trunk is not None:
            held.append(self._trunk)
        system = tuple(system_ids)
        return min(
            held,
            key=lambda each: (each.ids == system, isinstance(each, _Trunk), each.used_at),
            default=None,
        )


def _whole_prefix(ids: Sequence[int], system_ids: Sequence[int]) -> int:
    """The length of the system prompt where the ids begin with all of it, else zero."""
    whole = common_prefix_length(ids, system_ids) == len(system_ids)
    return len(system_ids) if whole else 0
