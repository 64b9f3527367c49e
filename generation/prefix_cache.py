"""Which part of a prompt need not be computed again.

A cache is worth what its ids are worth: they are kept beside it, compared one by one, and the
cache is cut where the prompt leaves them. Deciding is a function of ids; the rest is bookkeeping.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers.cache_utils import Cache

from generation import hf


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """How many cached tokens serve a prompt, and why not more; see `CacheDecided`."""

    decision: str
    reason: str
    reused_tokens: int = 0
    cached_tokens: int = 0
    divergence_index: int | None = None
    divergence_cached_id: int | None = None
    divergence_prompt_id: int | None = None
    key_field: str | None = None

    @property
    def cropped_tokens(self) -> int:
        return self.cached_tokens - self.reused_tokens if self.reused_tokens else 0


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """A cache, the ids that it holds in order, and what else must be equal for it to be valid."""

    ids: tuple[int, ...]
    cache: Cache
    key: Mapping[str, str]


def common_prefix_length(a: Sequence[int] | str, b: Sequence[int] | str) -> int:
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))


def decide_reuse(cached: Sequence[int], prompt: Sequence[int]) -> Reuse:
    """Compare ids only, so that the same ids always give the same answer.

    The last token of the prompt is never reused: its logits choose the first new token.
    """
    if not cached:
        return Reuse(decision="miss", reason="cold")
    common = common_prefix_length(cached, prompt)
    reused = min(common, len(prompt) - 1)
    if common == len(prompt):
        return Reuse(
            decision="hit" if reused else "miss",
            reason="covers_prompt",
            reused_tokens=reused,
            cached_tokens=len(cached),
        )
    if common == len(cached):
        return Reuse(
            decision="hit", reason="extends", reused_tokens=reused, cached_tokens=len(cached)
        )
    return Reuse(
        decision="partial" if reused else "miss",
        reason="token_divergence",
        reused_tokens=reused,
        cached_tokens=len(cached),
        divergence_index=common,
        divergence_cached_id=cached[common],
        divergence_prompt_id=prompt[common],
    )


class PrefixCache:
    """The cache of the last turn, and that of the system prompt, which is never lost to a turn."""

    def __init__(self) -> None:
        self._live: CachedPrefix | None = None
        self._pinned: CachedPrefix | None = None

    def pin(self, prefix: CachedPrefix) -> None:
        """Keep the prefix until the cache is cleared; it takes the place of an older one."""
        self._pinned = prefix
        self._live = None

    def keep(self, prefix: CachedPrefix) -> None:
        """Keep what a turn left behind."""
        self._live = prefix

    def take(self, prompt: Sequence[int], key: Mapping[str, str]) -> tuple[Reuse, Cache | None]:
        """The best start for a prompt: the decision, and a cache of exactly the reused ids.

        The cache is the caller's to fill; `keep` brings it back. None where nothing is reused.
        """
        held = [prefix for prefix in (self._live, self._pinned) if prefix is not None]
        if not held:
            return decide_reuse((), prompt), None
        decided = [(self._decide(prefix, prompt, key), prefix) for prefix in held]
        reuse, prefix = max(decided, key=lambda pair: pair[0].reused_tokens)
        if not reuse.reused_tokens:
            return reuse, None
        if prefix is self._live:
            self._live = None
            cache = prefix.cache
        else:
            cache = hf.fork(prefix.cache)
        try:
            hf.crop(cache, reuse.reused_tokens)
        except Exception as error:  # any failure leaves layers of different lengths
            failed = f"crop_failed:{type(error).__name__}"
            return Reuse(decision="miss", reason=failed, cached_tokens=len(prefix.ids)), None
        return reuse, cache

    def _decide(self, prefix: CachedPrefix, prompt: Sequence[int], key: Mapping[str, str]) -> Reuse:
        for name, value in key.items():
            if prefix.key.get(name) != value:
                return Reuse(
                    decision="miss",
                    reason=f"key_changed:{name}",
                    cached_tokens=len(prefix.ids),
                    key_field=name,
                )
        return decide_reuse(prefix.ids, prompt)

    def clear(self) -> int:
        """Forget everything; the bytes that were held."""
        freed = self.kv_bytes
        self._live = self._pinned = None
        return freed

    @property
    def kv_bytes(self) -> int:
        held = [prefix.cache for prefix in (self._live, self._pinned) if prefix is not None]
        return hf.kv_bytes(*held)
