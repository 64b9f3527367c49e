"""Events of the KV cache: how much of a prompt it spared, and why not more."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from tokentape.recorder.escapes import visible
from tokentape.recorder.events.checks import (
    check,
    check_counts,
    check_duration,
    check_total,
    choose,
)
from tokentape.recorder.events.fields import Counts, Settings, Text, TokenId
from tokentape.recorder.events.traits import EventBase, EventTraits


class CacheDecision(StrEnum):
    """How much of a prompt was taken from the cache."""

    HIT = "hit"
    """The prompt extends the cached tokens, or the cache covers the prompt."""
    PARTIAL = "partial"
    """A part of the cached tokens is reused, in most cases the prefix up to a divergence."""
    MISS = "miss"
    """Nothing is reused."""
    BYPASS = "bypass"
    """The cache is not used: by the user's wish, or because the model's cannot be reused."""


class CacheSource(StrEnum):
    """Where reused keys and values came from."""

    COMPUTED = ""
    """Nothing was reused."""
    MEMORY = "memory"
    DISK = "disk"
    GIVEN = "given"
    """The caller passed them as `past_key_values`."""


class CacheMode(StrEnum):
    """How a model's cache may be reused; the mode of a run is in `RunStarted.behaviour`."""

    CROP = "crop"
    """It can be cropped at any position."""
    SNAPSHOTS = "snapshots"
    """It can be copied, and never cropped."""
    APPEND = "append"
    """It can be neither copied nor cropped."""
    NONE = "none"
    """It is not reused."""


class EvictionReason(StrEnum):
    """Why cached tokens were dropped."""

    BUDGET = "budget"
    """Another sequence needed the room."""
    OVER_BUDGET = "over_budget"
    """The sequence alone is larger than the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDecided(EventBase):
    """How much of a prompt is reused from the cache, and why not more.

    `prompt_tokens` is `reused_tokens` plus `computed_tokens`, and at least one is computed.
    """

    version: ClassVar[int] = 2
    traits: ClassVar[EventTraits] = EventTraits(changes_summary=True)

    turn: int
    decision: CacheDecision
    reason: Text
    """A word such as `extends`, `token_divergence` or `cold`; docs/caches.md lists them."""
    prompt_tokens: int
    reused_tokens: int
    computed_tokens: int
    cached_tokens: int
    """Tokens in the cache before the turn."""
    cropped_tokens: int
    """Tokens that were cut from the end of the cache."""
    divergence_index: int | None = None
    """The first index at which cache and prompt differ; None if none does, like the next two."""
    divergence_cached_id: TokenId | None = None
    """The token there in the cache."""
    divergence_prompt_id: TokenId | None = None
    """The token there in the prompt."""
    key_field: Text | None = None
    """The field of the cache key that differed, or `interventions`."""
    source: CacheSource = CacheSource.COMPUTED
    disk_reason: Text = ""
    """Why a prefix that is stored on disk was not used; empty if none is stored or it was used."""
    key: Settings = field(default_factory=dict)
    """The cache key of the turn, for a replay: `adapters`, `attention_kernel`, hashes of the config
    and of the numbers in the modules, and so on. A part that is `none` or `off` is left out.

    Empty in recordings of version 0.1.0.
    """

    def __post_init__(self) -> None:
        choose(self, decision=CacheDecision, source=CacheSource)
        check_counts(
            reused_tokens=self.reused_tokens,
            cached_tokens=self.cached_tokens,
            cropped_tokens=self.cropped_tokens,
        )
        check_total(
            prompt_tokens=self.prompt_tokens,
            reused_tokens=self.reused_tokens,
            computed_tokens=self.computed_tokens,
        )
        check(
            self.computed_tokens >= 1,
            "the last token of a prompt is always computed: its logits choose the first token",
        )
        reuses = self.decision in (CacheDecision.HIT, CacheDecision.PARTIAL)
        check(
            reuses == (self.reused_tokens > 0),
            f"a {self.decision} cannot reuse {self.reused_tokens} tokens",
        )

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        decided = f"cache: {self.decision} ({visible(self.reason)})"
        if not self.reused_tokens:
            return f"{decided}, {self.computed_tokens:,} tokens computed"
        return (
            f"{decided}, {self.reused_tokens:,} of {self.prompt_tokens:,} tokens reused, "
            f"{self.computed_tokens:,} computed"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillCompleted(EventBase):
    """The computed tokens of a prompt were processed."""

    version: ClassVar[int] = 1

    turn: int
    chunks: Counts
    """The lengths of the forwards, in tokens."""
    duration_us: int
    kv_bytes: int
    """The storage of the turn's keys and values."""
    peak_bytes: int
    """The highest device memory of this prefill on CUDA, else the process's highest resident
    memory so far."""

    def __post_init__(self) -> None:
        check(
            bool(self.chunks) and min(self.chunks) >= 1,
            f"chunks must hold at least one length, each at least one: {self.chunks}",
        )
        check_counts(kv_bytes=self.kv_bytes, peak_bytes=self.peak_bytes)
        check_duration(self.duration_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCleared(EventBase):
    """The cache was emptied, the system prompt included."""

    version: ClassVar[int] = 1

    reason: Text
    freed_bytes: int

    def __post_init__(self) -> None:
        check_counts(freed_bytes=self.freed_bytes)

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        return f"cache: cleared ({visible(self.reason)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEvicted(EventBase):
    """A cached sequence was dropped, or that of a turn was not cached."""

    version: ClassVar[int] = 1

    reason: EvictionReason
    tokens: int
    """Tokens that are not cached any more."""
    freed_bytes: int
    kept_bytes: int
    """The storage of the cache afterwards."""

    def __post_init__(self) -> None:
        choose(self, reason=EvictionReason)
        check_counts(tokens=self.tokens, freed_bytes=self.freed_bytes, kept_bytes=self.kept_bytes)

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        return f"cache: {self.tokens:,} tokens dropped ({self.reason})"
