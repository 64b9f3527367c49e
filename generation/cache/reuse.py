"""Which part of a prompt need not be computed again.

A cache is worth what its ids are worth: they are kept beside it and compared one by one. Deciding
is a function of ids; where the caches are is the business of the shelves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transformers.cache_utils import Cache

from tokentape.generation.cache.id_salt import strip_salt

_BLOCK = 256


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
    source: str = ""
    disk_reason: str = ""

    @property
    def cropped_tokens(self) -> int:
        return self.cached_tokens - self.reused_tokens if self.reused_tokens else 0

    def limited_to(self, reused_tokens: int, reason: str) -> "Reuse":
        """The same comparison where only this many tokens can really be had."""
        if reused_tokens == self.reused_tokens:
            return self
        decision = "partial" if reused_tokens else "miss"
        return replace(self, decision=decision, reason=reason, reused_tokens=reused_tokens)


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """A cache, the ids that it holds in order, and what else must be equal for it to be valid.

    `generate(return_cache=True)` gives one, `generate(past_key_values=…)` takes it. A recurrent
    state does not count its tokens: `states_sha256` tells whether it is still that of the ids.
    `marked_ids` say under which interventions each was computed; empty where there were none.
    """

    ids: tuple[int, ...]
    cache: Cache
    key: Mapping[str, str]
    states_sha256: str = ""
    marked_ids: tuple[int, ...] = ()


def common_prefix_length(a: Sequence[int] | str, b: Sequence[int] | str) -> int:
    shorter = min(len(a), len(b))
    # Python compares a slice much faster than we compare its items.
    for start in range(0, shorter, _BLOCK):
        if a[start : start + _BLOCK] != b[start : start + _BLOCK]:
            differing = zip(a[start:shorter], b[start:shorter], strict=True)
            return start + next(
                (place for place, (left, right) in enumerate(differing) if left != right),
                shorter - start,
            )
    return shorter


def decide_reuse(cached: Sequence[int], prompt: Sequence[int]) -> Reuse:
    """Compare ids only, so that the same ids always give the same answer.

    The last token of the prompt is never reused: its logits choose the first new token. Ids may be
    marked with what acted on them: where nothing else differs, the decision says so.
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
    cached_id, prompt_id = strip_salt((cached[common], prompt[common]))
    same_id = cached_id == prompt_id
    return Reuse(
        decision="partial" if reused else "miss",
        reason="interventions_differ" if same_id else "token_divergence",
        reused_tokens=reused,
        cached_tokens=len(cached),
        divergence_index=common,
        divergence_cached_id=cached_id,
        divergence_prompt_id=prompt_id,
        key_field="interventions" if same_id else None,
    )
