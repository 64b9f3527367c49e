"""The decision how much of a prompt is reused from a cache.

The decision compares token ids only. Cache backends (`cache.backend`) store the caches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transformers.cache_utils import Cache

from tokentape.generation.cache.id_salt import strip_salt
from tokentape.recorder.events import CacheDecision, CacheSource
from tokentape.recorder.short_forms import short_repr

_BLOCK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """How many cached tokens a prompt reuses, and why not more. Fields as in `CacheDecided`."""

    decision: CacheDecision
    reason: str
    reused_tokens: int = 0
    cached_tokens: int = 0
    """Length of the cached sequence that was compared with the prompt."""
    divergence_index: int | None = None
    """Index of the first id that differs."""
    divergence_cached_id: int | None = None
    divergence_prompt_id: int | None = None
    key_field: str | None = None
    """Field of the cache key that differs, or `interventions`."""
    source: CacheSource = CacheSource.COMPUTED
    disk_reason: str = ""
    """Why a stored prefix was rejected; empty if there was none or it is valid."""

    @property
    def cropped_tokens(self) -> int:
        """Number of cached tokens that are cut off before the cache is reused."""
        return self.cached_tokens - self.reused_tokens if self.reused_tokens else 0

    def limited_to(self, reused_tokens: int, reason: str) -> "Reuse":
        """Return this decision with fewer reused tokens, for the given reason."""
        if reused_tokens == self.reused_tokens:
            return self
        decision = CacheDecision.PARTIAL if reused_tokens else CacheDecision.MISS
        return replace(self, decision=decision, reason=reason, reused_tokens=reused_tokens)


@dataclass(frozen=True, slots=True, repr=False)
class CachedPrefix:
    """A cache with the ids that it holds and the key under which it is valid.

    `generate(return_cache=True)` returns one and `generate(past_key_values=…)` accepts it.
    """

    ids: tuple[int, ...]
    cache: Cache
    key: Mapping[str, str]
    states_sha256: str = ""
    """Hash of the recurrent states, which do not count their tokens; empty without such states."""
    salted_ids: tuple[int, ...] = ()
    """The ids with the salt of their interventions (`cache.id_salt`); empty if none is salted."""

    def __repr__(self) -> str:
        return short_repr(self, f"of {len(self.ids):,} tokens")


def common_prefix_length(a: Sequence[int] | str, b: Sequence[int] | str) -> int:
    """Return how many items both sequences have in common from their start."""
    shorter = min(len(a), len(b))
    # Python compares slices much faster than a loop compares items.
    for start in range(0, shorter, _BLOCK):
        if a[start : start + _BLOCK] != b[start : start + _BLOCK]:
            differing = zip(a[start:shorter], b[start:shorter], strict=True)
            return start + next(
                (index for index, (left, right) in enumerate(differing) if left != right),
                shorter - start,
            )
    return shorter


def decide_reuse(cached: Sequence[int], prompt: Sequence[int]) -> Reuse:
    """Return the decision for a prompt, given the ids of the cached sequence.

    The last token of the prompt is never reused, because its logits choose the first new token.
    Both sequences may be salted. If only the salt differs, the reason is `interventions_differ`.
    """
    if not cached:
        return Reuse(decision=CacheDecision.MISS, reason="cold")
    common = common_prefix_length(cached, prompt)
    reused = min(common, len(prompt) - 1)
    if common == len(prompt):
        return Reuse(
            decision=CacheDecision.HIT if reused else CacheDecision.MISS,
            reason="covers_prompt",
            reused_tokens=reused,
            cached_tokens=len(cached),
        )
    if common == len(cached):
        return Reuse(
            decision=CacheDecision.HIT,
            reason="extends",
            reused_tokens=reused,
            cached_tokens=len(cached),
        )
    cached_id, prompt_id = strip_salt((cached[common], prompt[common]))
    same_id = cached_id == prompt_id
    return Reuse(
        decision=CacheDecision.PARTIAL if reused else CacheDecision.MISS,
        reason="interventions_differ" if same_id else "token_divergence",
        reused_tokens=reused,
        cached_tokens=len(cached),
        divergence_index=common,
        divergence_cached_id=cached_id,
        divergence_prompt_id=prompt_id,
        key_field="interventions" if same_id else None,
    )
