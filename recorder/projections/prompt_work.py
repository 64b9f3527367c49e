"""The prompt tokens that a run computed, and those that it would have computed without a cache."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from tokentape.recorder.events import CacheDecided, SystemPromptCached


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptWork:
    """The prompt tokens of a run, with and without reuse."""

    system_tokens: int
    """Tokens of system prompts that were computed before the first turn."""
    turn_tokens: int
    """Tokens that turns computed."""
    prompt_tokens: int
    """The sum of the lengths of all prompts, which a run without a cache computes."""

    @classmethod
    def of(cls, cached: Iterable[SystemPromptCached], decided: Iterable[CacheDecided]) -> Self:
        """Return the sums over the system prompts and the cache decisions of a run."""
        decisions = list(decided)
        return cls(
            system_tokens=computed_of_system(cached),
            turn_tokens=sum(each.computed_tokens for each in decisions),
            prompt_tokens=sum(each.prompt_tokens for each in decisions),
        )

    @property
    def computed_tokens(self) -> int:
        """All prompt tokens that were computed."""
        return self.system_tokens + self.turn_tokens

    @property
    def times_fewer(self) -> float | None:
        """The prompt tokens for each one that was computed; None if none was."""
        return self.prompt_tokens / self.computed_tokens if self.computed_tokens else None


def computed_of_system(cached: Iterable[SystemPromptCached]) -> int:
    """Return the tokens of system prompts that the run computed itself."""
    return sum(each.computed_tokens for each in cached)
