"""Token counts and start times of a model's forwards, measured at its embedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import torch

import tokentape as tt
from benchmarks.machine import now_s


@dataclass(frozen=True, slots=True)
class TimedForward:
    """One forward of the model."""

    tokens: int
    began_s: float
    """Seconds on the clock of `now_s`."""


class ForwardTimer:
    """A context in which each forward of a model is timed.

    It replaces `forward` of the input embedding, which runs in every forward. It is not a hook:
    a hook is part of the cache key, prevents prefixes from being stored on disk, and turns
    inference mode off.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._embedding = model.get_input_embeddings()
        self._device = model.device
        self._timed: list[TimedForward] = []

    def __enter__(self) -> Self:
        # Computed once for each model, by forwards that belong to no turn.
        tt.cache_policy(self._model)
        forward = self._embedding.forward

        def timed_forward(ids: torch.Tensor) -> Any:
            self._timed.append(TimedForward(ids.numel(), now_s(self._device)))
            return forward(ids)

        self._embedding.forward = timed_forward
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._embedding.forward

    def drain(self) -> list[TimedForward]:
        """Return the forwards since the last call, and forget them."""
        drained, self._timed = self._timed, []
        return drained


def tokens_of(forwards: Sequence[TimedForward]) -> int:
    """Return how many tokens went through the model."""
    return sum(each.tokens for each in forwards)


def prefill_of(forwards: Sequence[TimedForward], generated_tokens: int) -> list[TimedForward]:
    """Return the forwards before the first generated token.

    The last generated token is sampled and never forwarded.
    """
    return list(forwards[: len(forwards) - (generated_tokens - 1)])


def step_ms(forwards: Sequence[TimedForward], generated_tokens: int) -> list[float]:
    """Return the milliseconds from the start of each decoding forward to the start of the next.

    A step therefore holds the forward, sampling and recording of one token.
    """
    decoding = forwards[len(forwards) - (generated_tokens - 1) :]
    assert all(each.tokens == 1 for each in decoding)
    return [(after.began_s - before.began_s) * 1000.0 for before, after in pairwise(decoding)]
