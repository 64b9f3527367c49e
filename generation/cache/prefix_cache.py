"""The prefix cache of a model: lookup, storage and eviction of its KV caches."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.cache.backend import CacheBackend
from tokentape.generation.cache.branch_backend import BranchBackend
from tokentape.generation.cache.disk_tier import DiskTier, WeightsIdentity
from tokentape.generation.cache.given_cache import acquire_given, key_difference
from tokentape.generation.cache.id_salt import is_salted, strip_salt
from tokentape.generation.cache.key import cache_key
from tokentape.generation.cache.policy import CachePolicy, cache_policy
from tokentape.generation.cache.prefix_folder import PrefixFolder
from tokentape.generation.cache.reuse import CachedPrefix, Reuse
from tokentape.generation.cache.snapshot_backend import SnapshotBackend
from tokentape.generation.errors import ModelError
from tokentape.generation.run_settings import CACHE_BYTES
from tokentape.recorder.events import CacheDecision, CacheMode, CacheSource, EvictionReason

# Equal to no token id. Appended to a prompt, it allows the reuse of every token before it.
NO_TOKEN = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLease:
    """The result of a cache lookup, and the cache that the caller fills.

    The caller appends to `cache` and returns the lease to `PrefixCache.commit`.
    """

    reuse: Reuse
    cache: Cache
    """A cache of the first `reuse.reused_tokens` ids of the prompt."""
    key: Mapping[str, str]
    policy: CachePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """A cache entry that was evicted, or that was too large to be stored (`over_budget`)."""

    reason: EvictionReason
    tokens: int
    freed_bytes: int
    kept_bytes: int
    """Bytes in the cache after the eviction."""


class PrefixCache:
    """KV caches of one model, grouped by the key under which they are valid.

    If a previous key becomes valid again, e.g. because a foreign hook is removed, its caches are
    found again. All ids in the interface may be salted with interventions (`cache.id_salt`).
    """

    def __init__(
        self,
        model: Any,
        identity: WeightsIdentity,
        *,
        budget_bytes: int = CACHE_BYTES,
        folder: PrefixFolder | None = None,
    ) -> None:
        self._model = model
        self._budget_bytes = budget_bytes
        self._disk = DiskTier(model, identity, folder)
        self._backends: dict[str, tuple[Mapping[str, str], CacheBackend]] = {}
        self._latest_key: Mapping[str, str] | None = None
        self._clock = itertools.count(1)
        self._system_ids: tuple[int, ...] = ()

    def acquire(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        *,
        total_tokens: int,
        use_cache: bool = True,
        given: CachedPrefix | None = None,
    ) -> CacheLease:
        """Return a lease with a cache of the longest reusable prefix of a prompt.

        `total_tokens` counts the prompt and the new tokens. With `given`, only that cache is
        considered. Raise ModelError if `given` does not hold its ids.
        """
        policy = cache_policy(self._model, config)
        key = cache_key(self._model, config)
        cache: Cache | None = None
        if policy.mode == CacheMode.NONE:
            reuse = Reuse(decision=CacheDecision.BYPASS, reason=policy.reason)
        elif not use_cache:
            reuse = Reuse(decision=CacheDecision.BYPASS, reason="user_bypass")
        elif given is not None:
            reuse, cache = acquire_given(prompt, given, key, policy)
        else:
            reuse, cache = self._lookup(prompt, config, key, policy)
        if cache is None:
            cache = hf.new_cache(self._model, config, total_tokens=total_tokens)
        return CacheLease(reuse=reuse, cache=cache, key=key, policy=policy)

    def peek(self, prompt: Sequence[int]) -> Reuse:
        """Return what memory holds of a prompt, without changing anything."""
        return self._backend(cache_key(self._model), cache_policy(self._model)).peek(prompt)

    def commit_prompt(self, lease: CacheLease, prompt: Sequence[int]) -> tuple[Eviction, ...]:
        """Store a copy of the prefilled cache if it cannot be cropped back to the prompt later."""
        if lease.policy.mode != CacheMode.SNAPSHOTS or not self._is_still_valid(lease):
            return ()
        if hf.kv_bytes(lease.cache) <= self._budget_bytes:
            backend = self._backend(lease.key, lease.policy)
            backend.put(prompt, hf.fork(lease.cache), next(self._clock))
        return tuple(self._evict_over_budget())

    def commit(
        self, lease: CacheLease, ids: Sequence[int], *, system: bool = False
    ) -> tuple[Eviction, ...]:
        """Store the filled cache of a lease, which now holds `ids`, and evict what exceeds.

        `system` marks the ids as the system prompt, which is evicted last. Nothing is stored if
        the model was changed since `acquire`: the cache then mixes both versions.
        """
        if lease.policy.mode == CacheMode.NONE or not self._is_still_valid(lease):
            return ()
        if system:
            self._system_ids = tuple(ids)
        backend = self._backend(lease.key, lease.policy)
        size = hf.kv_bytes(lease.cache)
        if size > self._budget_bytes:
            backend.rollback()
            refused = Eviction(
                reason=EvictionReason.OVER_BUDGET,
                tokens=len(ids),
                freed_bytes=size,
                kept_bytes=self.kv_bytes,
            )
            return (refused, *self._evict_over_budget())
        backend.put(ids, lease.cache, next(self._clock))
        self._latest_key = lease.key
        return tuple(self._evict_over_budget())

    def check_copyable(self, config: GenerationConfig) -> None:
        """Raise ModelError if caches of this model cannot be copied for the caller."""
        policy = cache_policy(self._model, config)
        if policy.mode not in (CacheMode.CROP, CacheMode.SNAPSHOTS):
            raise ModelError(f"a cache of this model cannot be returned: {policy.reason}")

    def copy(self, lease: CacheLease, ids: Sequence[int]) -> CachedPrefix:
        """Return an independent copy of the cache of a lease, which holds `ids`."""
        states = hf.states_sha256(lease.cache)
        salted_ids = tuple(ids) if any(map(is_salted, ids)) else ()
        return CachedPrefix(strip_salt(ids), hf.fork(lease.cache), lease.key, states, salted_ids)

    def copy_cached(self, ids: Sequence[int]) -> CachedPrefix | None:
        """Return an independent copy of the cache of exactly these ids.

        None if it is not in memory, or if caches of this model cannot be copied.
        """
        policy = cache_policy(self._model)
        if policy.mode not in (CacheMode.CROP, CacheMode.SNAPSHOTS) or not self.holds(ids):
            return None
        config = hf.prefill_config(self._model)
        lease = self.acquire((*ids, NO_TOKEN), config, total_tokens=len(ids) + 1)
        copied = self.copy(lease, ids)
        self.commit(lease, ids)
        return copied

    def holds(self, ids: Sequence[int]) -> bool:
        """Return whether all of these ids are cached in memory."""
        return len(ids) > 0 and self.peek((*ids, NO_TOKEN)).reused_tokens == len(ids)

    def clear(self) -> int:
        """Remove all caches from memory and return the number of bytes freed."""
        freed = self.kv_bytes
        self._backends.clear()
        self._latest_key, self._system_ids = None, ()
        return freed

    @property
    def kv_bytes(self) -> int:
        """Bytes of storage in memory; shared storage counts once."""
        return hf.storage_bytes(self._tensors())

    def store(self, lease: CacheLease, ids: Sequence[int]) -> None:
        """Write the cache of a lease, which holds `ids`, to disk if there is a folder.

        Raise OSError if the file cannot be written.
        """
        self._disk.store(ids, lease.cache, lease.key, lease.policy)

    def store_cached(self, ids: Sequence[int]) -> bool:
        """Write the cached prefix of these ids to disk; return False if nothing can be written."""
        config = hf.prefill_config(self._model)
        policy, key = cache_policy(self._model), cache_key(self._model)
        if not self._disk.accepts(key, policy):
            return False
        cached = self._backend(key, policy).peek((*ids, NO_TOKEN)).reused_tokens
        if not cached:
            return False
        lease = self.acquire((*ids[:cached], NO_TOKEN), config, total_tokens=cached + 1)
        self.store(lease, ids[:cached])
        self.commit(lease, ids[:cached])
        return True

    def _lookup(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        key: Mapping[str, str],
        policy: CachePolicy,
    ) -> tuple[Reuse, Cache | None]:
        """Return the decision and a cache of the reused ids, from memory or from disk."""
        self._drop_other_weights(key)
        backend = self._backend(key, policy)
        reuse = backend.peek(prompt)
        if reuse.reason == "cold" and self._latest_key is not None:
            reuse = key_difference(self._latest_key, key) or reuse
        source, disk_reason = CacheSource.MEMORY, ""
        stored = self._disk.find(prompt, key, policy, more_than=reuse.reused_tokens)
        if stored is not None:
            restored = self._disk.restore(stored.path, config, key, policy)
            disk_reason = restored.reason
            if restored.cache is not None:
                source = CacheSource.DISK
                if hf.kv_bytes(restored.cache) > self._budget_bytes:
                    # Too large to stay in memory: this turn alone uses it.
                    backend = SnapshotBackend(copies=True)
                backend.put(restored.ids, restored.cache, next(self._clock))
                self._latest_key = key
                reuse = backend.peek(prompt)
        cache: Cache | None = None
        if reuse.reused_tokens:
            reuse, cache = backend.acquire(prompt, next(self._clock))
        source = source if reuse.reused_tokens else CacheSource.COMPUTED
        return replace(reuse, source=source, disk_reason=disk_reason), cache

    def _backend(self, key: Mapping[str, str], policy: CachePolicy) -> CacheBackend:
        name = json.dumps(dict(key), sort_keys=True)
        if name not in self._backends:
            backend: CacheBackend
            if policy.mode == CacheMode.CROP:
                # A reference to `self` in it would be a cycle, which keeps the cached tensors in
                # the memory of a GPU until Python collects garbage.
                backend = BranchBackend(partial(hf.new_cache, self._model))
            else:
                backend = SnapshotBackend(copies=policy.mode == CacheMode.SNAPSHOTS)
            self._backends[name] = (key, backend)
        return self._backends[name][1]

    def _drop_other_weights(self, key: Mapping[str, str]) -> None:
        """Drop the caches of earlier weights: a version number never becomes valid again."""
        self._backends = {
            name: (cached, backend)
            for name, (cached, backend) in self._backends.items()
            if cached["weights"] == key["weights"]
        }

    def _is_still_valid(self, lease: CacheLease) -> bool:
        now = cache_key(self._model)
        return all(value == lease.key[name] for name, value in now.items() if name != "cache")

    def _evict_over_budget(self) -> Iterator[Eviction]:
        """Evict the least recently used entries until the rest fits; the system prompt last."""
        size = self.kv_bytes
        while size > self._budget_bytes:
            candidates = [
                (candidate, backend)
                for _, backend in self._backends.values()
                if (candidate := backend.eviction_candidate(self._system_ids)) is not None
            ]
            if not candidates:
                return
            candidate, backend = min(
                candidates, key=lambda pair: (pair[0].holds_system_prompt, pair[0].used_at)
            )
            backend.evict(self._system_ids)
            remaining = self.kv_bytes
            yield Eviction(
                reason=EvictionReason.BUDGET,
                tokens=candidate.tokens,
                freed_bytes=size - remaining,
                kept_bytes=remaining,
            )
            size = remaining

    def _tensors(self) -> Iterator[torch.Tensor]:
        for _, backend in self._backends.values():
            yield from backend.tensors()
