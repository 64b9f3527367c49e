"""Caches: what they are worth to a prompt, where they are kept, and when they are given up."""

from tokentape.generation.cache.disk import PrefixFolder
from tokentape.generation.cache.key import cache_key, weights_version
from tokentape.generation.cache.marks import marked
from tokentape.generation.cache.policy import CachePolicy, cache_policy
from tokentape.generation.cache.prefix_cache import (
    CACHE_BYTES,
    NO_TOKEN,
    Eviction,
    PrefixCache,
    Start,
)
from tokentape.generation.cache.reuse import CachedPrefix, Reuse, common_prefix_length, decide_reuse

__all__ = (
    "CACHE_BYTES",
    "NO_TOKEN",
    "CachePolicy",
    "CachedPrefix",
    "Eviction",
    "PrefixCache",
    "PrefixFolder",
    "Reuse",
    "Start",
    "cache_key",
    "cache_policy",
    "common_prefix_length",
    "decide_reuse",
    "marked",
    "weights_version",
)
