"""Checks of a cache that a caller passes to `generate(past_key_values=…)`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.cache.key import difference_of
from tokentape.generation.cache.policy import CachePolicy
from tokentape.generation.cache.reuse import CachedPrefix, Reuse
from tokentape.generation.cache.snapshot_backend import SnapshotBackend
from tokentape.generation.errors import ModelError
from tokentape.recorder.events import CacheDecision, CacheMode, CacheSource


def acquire_given(
    prompt: Sequence[int], given: CachedPrefix, key: Mapping[str, str], policy: CachePolicy
) -> tuple[Reuse, Cache | None]:
    """Return the decision for a prompt with the caller's cache, and a cache of the reused ids.

    The caller's cache is copied where it can be. Raise ModelError if it does not hold its ids.
    """
    check_cache_fits(given, policy)
    changed = key_difference(given.key, key)
    if changed is not None:
        return replace(changed, cached_tokens=len(given.ids)), None
    backend = SnapshotBackend(copies=policy.mode != CacheMode.APPEND)
    backend.put(given.salted_ids or given.ids, given.cache, 0)
    reuse, cache = backend.acquire(prompt, 0)
    return replace(
        reuse, source=CacheSource.GIVEN if reuse.reused_tokens else CacheSource.COMPUTED
    ), cache


def check_cache_fits(given: CachedPrefix, policy: CachePolicy) -> None:
    """Raise ModelError if a cache does not hold its ids or was made by another model."""
    if not isinstance(given, CachedPrefix):
        raise ModelError(
            f"past_key_values must be a CachedPrefix, not a {type(given).__name__}, which has no "
            "ids: pass the past_key_values that generate(return_cache=True) returned"
        )
    if not given.ids:
        raise ModelError("the cache in past_key_values is empty")
    shapes = hf.shapes(given.cache)
    if shapes != policy.shapes:
        raise ModelError(
            f"the cache in past_key_values has layers of shape {shapes[:2]} …, but the layers of "
            f"the model have shape {policy.shapes[:2]} …"
        )
    if hf.states_sha256(given.cache) != given.states_sha256:
        raise ModelError(
            "the recurrent states of the cache in past_key_values do not belong to its ids: the "
            "cache was used after it was returned"
        )
    layers: list[Any] = given.cache.layers
    for number, layer in enumerate(layers):
        held = layer.get_seq_length() if hasattr(layer, "get_seq_length") else len(given.ids)
        if int(held) != len(given.ids):
            raise ModelError(
                f"the cache in past_key_values holds {int(held)} tokens in layer {number}, "
                f"but has {len(given.ids)} ids"
            )


def key_difference(cached: Mapping[str, str], key: Mapping[str, str]) -> Reuse | None:
    """Return a miss that names the first differing field of the keys, or None if they are equal."""
    for name, value in key.items():
        if cached.get(name) != value:
            reason = f"key_changed:{difference_of(name, cached.get(name, ''), value)}"
            return Reuse(decision=CacheDecision.MISS, reason=reason, key_field=name)
    return None
