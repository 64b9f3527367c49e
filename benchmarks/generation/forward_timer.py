"""Token counts and start times of a model's forwards, measured as their inputs are prepared."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

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

    It replaces the model's `prepare_inputs_for_generation`, which tokentape and `generate` call
    before each forward. No module is touched: a hook, or another `forward`, turns inference mode
    or traced steps off and is part of the cache key.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device = model.device
        self._timed: list[TimedForward] = []

    def __enter__(self) -> Self:
        # Computed once for each model, by forwards that belong to no turn.
        tt.cache_policy(self._model)
        prepare = self._model.prepare_inputs_for_generation

        @functools.wraps(prepare)
        def timed_prepare(*args: Any, **kwargs: Any) -> Any:
            began_s = now_s(self._device)
            inputs = prepare(*args, **kwargs)
            self._timed.append(TimedForward(inputs["input_ids"].numel(), began_s))
            return inputs

        self._model.prepare_inputs_for_generation = timed_prepare
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._model.prepare_inputs_for_generation

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
