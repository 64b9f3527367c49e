"""What the KV cache spared, what it could not spare, and why."""

from dataclasses import dataclass
from typing import ClassVar

from tokentape.recorder.events._check import check, check_counts, check_microseconds

DECISIONS = ("hit", "partial", "miss", "bypass")
SOURCES = ("", "memory", "disk", "given")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDecided:
    """How much of a prompt came from the cache, and why not more.

    `cached_tokens` is what the cache held, `cropped_tokens` what was cut from it. At
    `divergence_index` the cache holds `divergence_cached_id` where the prompt has
    `divergence_prompt_id`; all three are None where nothing differs. `key_field` names the part
    of the cache key that differed. `source` is where reused tokens came from: `memory`, `disk` or
    `given` by the caller. `disk_reason` is why a prefix stored on disk was not used.
    """

    version: ClassVar[int] = 1
    turn: int
    decision: str
    reason: str
    prompt_tokens: int
    reused_tokens: int
    computed_tokens: int
    cached_tokens: int
    cropped_tokens: int
    divergence_index: int | None = None
    divergence_cached_id: int | None = None
    divergence_prompt_id: int | None = None
    key_field: str | None = None
    source: str = ""
    disk_reason: str = ""

    def __post_init__(self) -> None:
        check(self.decision in DECISIONS, f"no such decision: {self.decision!r}")
        check(self.source in SOURCES, f"no such source: {self.source!r}")
        check_counts(
            reused_tokens=self.reused_tokens,
            cached_tokens=self.cached_tokens,
            cropped_tokens=self.cropped_tokens,
        )
        check(
            self.prompt_tokens == self.reused_tokens + self.computed_tokens,
            f"prompt_tokens {self.prompt_tokens} must be reused_tokens {self.reused_tokens} "
            f"plus computed_tokens {self.computed_tokens}",
        )
        check(
            self.computed_tokens >= 1,
            "the last token of a prompt is always computed: its logits choose the first token",
        )
        check(
            (self.decision in ("hit", "partial")) == (self.reused_tokens > 0),
            f"a {self.decision} cannot reuse {self.reused_tokens} tokens",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillCompleted:
    """The prompt's new tokens were processed.

    `chunks` are the lengths of the forwards. `kv_bytes` is the storage that the cache holds;
    `peak_bytes` is the highest device memory of this prefill on CUDA, else the highest resident
    memory of the process so far.
    """

    version: ClassVar[int] = 1
    turn: int
    chunks: tuple[int, ...]
    duration_us: int
    kv_bytes: int
    peak_bytes: int

    def __post_init__(self) -> None:
        check(bool(self.chunks) and min(self.chunks) >= 1, "a prefill has at least one token")
        check_counts(kv_bytes=self.kv_bytes, peak_bytes=self.peak_bytes)
        check_microseconds(self.duration_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCleared:
    """The cache was emptied, system prompt and all."""

    version: ClassVar[int] = 1
    reason: str
    freed_bytes: int

    def __post_init__(self) -> None:
        check_counts(freed_bytes=self.freed_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEvicted:
    """Something cached was given up, or a turn's cache was not kept.

    `reason` is `budget` where room was made, and `over_budget` where a sequence alone is larger
    than the budget. `tokens` counts what is no longer held, `kept_bytes` what still is.
    """

    version: ClassVar[int] = 1
    reason: str
    tokens: int
    freed_bytes: int
    kept_bytes: int

    def __post_init__(self) -> None:
        check_counts(tokens=self.tokens, freed_bytes=self.freed_bytes, kept_bytes=self.kept_bytes)
