"""When each token of several sequences came, and the rates that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass

_TOKENS_MIN = 4
"""Tokens a sequence below which a rate would be mostly chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTimes:
    """One run of an engine over a list of prompts."""

    began_s: float
    """When the prompts were given to the engine, in seconds of a monotonic clock."""
    ended_s: float
    at_s: tuple[tuple[float, ...], ...]
    """For each sequence, when each of its tokens was there."""

    @property
    def tokens(self) -> int:
        """Return the number of generated tokens of all sequences."""
        return sum(len(each) for each in self.at_s)

    @property
    def whole_per_s(self) -> float:
        """Return tokens per second, prefills included."""
        return self.tokens / (self.ended_s - self.began_s)

    @property
    def decode_per_s(self) -> float | None:
        """Return tokens per second while every sequence decodes.

        The time counted goes from the last first token to the first last token. Return None if it
        holds fewer than four tokens of each sequence: a sequence ended before another began.
        """
        began = max(each[0] for each in self.at_s)
        ended = min(each[-1] for each in self.at_s)
        counts = [_tokens_between(each, began, ended) for each in self.at_s]
        if min(counts) < _TOKENS_MIN:
            return None
        return sum(counts) / (ended - began)

    @property
    def step_ms(self) -> float | None:
        """Return milliseconds in which every sequence gets one more token, or None as above."""
        rate = self.decode_per_s
        return None if rate is None else 1000.0 * len(self.at_s) / rate


def _tokens_between(at_s: Sequence[float], began_s: float, ended_s: float) -> int:
    return sum(began_s < each <= ended_s for each in at_s)
