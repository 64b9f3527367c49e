"""Prefix caching: which KV caches may be reused, how they are stored and when they are evicted."""

from tokentape.generation.cache.id_salt import salt_ids
from tokentape.generation.cache.key import cache_key
from tokentape.generation.cache.policy import CachePolicy, cache_policy
from tokentape.generation.cache.prefix_cache import (
    NO_TOKEN,
    CacheLease,
    Eviction,
    PrefixCache,
)
from tokentape.generation.cache.prefix_folder import PrefixFolder, prefix_folder_at
from tokentape.generation.cache.reuse import CachedPrefix, Reuse, common_prefix_length, decide_reuse

__all__ = (
    "NO_TOKEN",
    "CacheLease",
    "CachePolicy",
    "CachedPrefix",
    "Eviction",
    "PrefixCache",
    "PrefixFolder",
    "Reuse",
    "cache_key",
    "cache_policy",
    "common_prefix_length",
    "decide_reuse",
    "prefix_folder_at",
    "salt_ids",
)
