"""The storage of KV caches over the turns of a conversation, counted without any tensor.

It repeats what `PrefixCache` does with a conversation that only grows: the same buffers with their
spare capacity, the same copies for a model whose caches cannot be cropped, the same eviction.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tokentape.generation.hf import KvLayer, grown_capacity

_Storages = tuple[tuple[int, int], ...]
"""Storages of a cache: an identity and bytes for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTurn:
    """The storage of KV caches in one turn, in bytes."""

    stored_bytes: int
    """After the turn, as `MemorySampled.kv_bytes` counts it."""
    peak_bytes: int
    """The most during the turn: what is stored, and the cache that the turn fills."""


def token_bytes(layers: Iterable[KvLayer]) -> int:
    """Return the bytes of keys and values that one more token needs in a long conversation.

    Layers with a sliding window need none then.
    """
    return sum(each.token_bytes for each in layers if each.window_tokens is None)


def content_bytes(layers: Iterable[KvLayer], tokens: int) -> int:
    """Return the bytes of the states of a sequence, without spare capacity."""
    return sum(each.fixed_bytes + each.token_bytes * _held(each, tokens) for each in layers)


def capacity_bytes(layers: Iterable[KvLayer], tokens: int, chunk_tokens: int) -> int:
    """Return the most bytes of storage of one sequence: with new buffers, after a chunk."""
    return sum(
        each.fixed_bytes + each.token_bytes * _room(each, tokens, chunk_tokens) for each in layers
    )


def _room(layer: KvLayer, tokens: int, chunk_tokens: int) -> int:
    if layer.grows_in_place:
        return grown_capacity(tokens)
    return tokens if layer.window_tokens is None else _held(layer, tokens) + chunk_tokens


def _held(layer: KvLayer, tokens: int) -> int:
    """Return how many of the last tokens a layer keeps."""
    return tokens if layer.window_tokens is None else min(tokens, layer.window_tokens - 1)


class KvSimulation:
    """The caches of one conversation that only grows.

    With `snapshots` they cannot be cropped, and a copy is stored after each prompt and each reply.
    `budget_bytes` is the setting `cache_bytes` of a run.
    """

    def __init__(
        self, layers: Sequence[KvLayer], *, snapshots: bool, budget_bytes: int = 2**62
    ) -> None:
        self._kinds = Counter(layers)
        self._snapshots = snapshots
        self._budget_bytes = budget_bytes
        self._names = itertools.count()
        self._running = [_LayerStorage(kind, self._names) for kind in self._kinds]
        self._system: _Storages | None = None
        self._stored: list[_Storages] = []

    def system_prompt(self, chunks: Sequence[int]) -> KvTurn:
        """Append a system prompt in forwards of these numbers of tokens."""
        peak = self._append(chunks)
        self._system = self._running_storages()
        self._stored.append(self._system)
        return self._turn(peak)

    def turn(self, chunks: Sequence[int], new_tokens: int) -> KvTurn:
        """Append a prompt, and after it a reply of this length; its last token is not appended."""
        if self._stored and not self._snapshots:
            # The fork that stays in the cache while the turn runs.
            self._stored = [self._running_storages()]
        elif self._stored:
            self._running = [each.forked() for each in self._running]
        peak = self._append(chunks)
        if self._snapshots:
            prompt = _storages([each.forked() for each in self._running], self._kinds)
            self._put(prompt)
        peak = max(peak, self._append([1] * (new_tokens - 1)))
        if self._snapshots:
            if new_tokens == 1:
                # The reply's token is not appended: this replaces the snapshot of the prompt.
                self._stored = [each for each in self._stored if each is not prompt]
            self._put(self._running_storages())
        else:
            self._stored = [self._running_storages()]
        return self._turn(peak)

    def _turn(self, peak: int) -> KvTurn:
        stored = self._bytes(self._stored)
        return KvTurn(stored_bytes=stored, peak_bytes=max(peak, stored))

    def _append(self, appended: Sequence[int]) -> int:
        """Append tokens; return the most bytes of storage that are in use meanwhile."""
        stored = _union(self._stored)
        all_stored, peak = sum(stored.values()), 0
        for tokens in appended:
            for layer in self._running:
                layer.append(tokens)
            running = dict(self._running_storages())
            new = sum(size for storage, size in running.items() if storage not in stored)
            peak = max(peak, all_stored + new)
        return peak

    def _running_storages(self) -> _Storages:
        return _storages(self._running, self._kinds)

    def _put(self, snapshot: _Storages) -> None:
        """Store a snapshot that fits, and evict the oldest ones while all exceed the budget."""
        if self._bytes([snapshot]) > self._budget_bytes:
            return
        self._stored.append(snapshot)
        while len(self._stored) > 1 and self._bytes(self._stored) > self._budget_bytes:
            oldest = next(each for each in self._stored if each is not self._system)
            self._stored.remove(oldest)

    def _bytes(self, caches: Iterable[_Storages]) -> int:
        return sum(_union(caches).values())


def _union(caches: Iterable[_Storages]) -> dict[int, int]:
    """Return the bytes of each storage of some caches; a shared storage comes once."""
    return {storage: size for cache in caches for storage, size in cache}


def _storages(layers: Sequence["_LayerStorage"], kinds: Mapping[KvLayer, int]) -> _Storages:
    """Return the storages of the layers; each counts as often as its kind occurs."""
    return tuple(
        (storage, size * count)
        for layer, count in zip(layers, kinds.values(), strict=True)
        for storage, size in layer.storages()
    )


class _LayerStorage:
    """The storages of one layer of the cache that is appended to."""

    def __init__(self, kind: KvLayer, names: Iterator[int]) -> None:
        self._kind = kind
        self._names = names
        self._held = self._room = 0
        self._states = next(names)
        self._fixed = next(names)

    def append(self, tokens: int) -> None:
        """Append tokens, as the layer's `update` does."""
        kind = self._kind
        if kind.window_tokens is not None:
            # The states are concatenated, and a view of the last ones is stored.
            self._room = min(self._held, kind.window_tokens - 1) + tokens
            self._states = next(self._names)
        elif not kind.grows_in_place:
            self._room = self._held + tokens
            self._states = next(self._names)
        elif self._held + tokens > self._room:
            self._room = grown_capacity(self._held + tokens)
            self._states = next(self._names)
        self._held += tokens

    def forked(self) -> "_LayerStorage":
        """Return the layer of a fork, which has copies of all that forks do not share."""
        fork = _LayerStorage(self._kind, self._names)
        fork._held, fork._room = self._held, self._room
        if self._kind.forks_share:
            fork._states, fork._fixed = self._states, self._fixed
        return fork

    def storages(self) -> _Storages:
        """Return the identities and bytes of the storages."""
        return (
            (self._states, self._room * self._kind.token_bytes),
            (self._fixed, self._kind.fixed_bytes),
        )
