"""The forwards of a model, seen from outside: how many tokens each had, and when it began."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import torch

import tokentape as tt
from benchmarks.machine import now_s


@dataclass(frozen=True, slots=True)
class MeasuredForward:
    """`began_s` is on the clock of `now_s`."""

    tokens: int
    began_s: float


class Forwards:
    """Watches the embedding, which no forward gets around, while it is entered.

    By its `forward`, not by a hook: a hook is part of what must be equal for a cache to be valid,
    keeps prefixes off the disk, and has forwards run so that its owner can train on what it sees.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._embedding = model.get_input_embeddings()
        self._device = model.device
        self._seen: list[MeasuredForward] = []

    def __enter__(self) -> Self:
        # Once for each model, and part of no turn.
        tt.cache_policy(self._model)
        forward = self._embedding.forward

        def watched(ids: torch.Tensor) -> Any:
            self._seen.append(MeasuredForward(ids.numel(), now_s(self._device)))
            return forward(ids)

        self._embedding.forward = watched
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._embedding.forward

    def take(self) -> list[MeasuredForward]:
        """What was seen since the last time."""
        taken, self._seen = self._seen, []
        return taken


def tokens_of(forwards: Sequence[MeasuredForward]) -> int:
    return sum(each.tokens for each in forwards)


def prefill_of(forwards: Sequence[MeasuredForward], generated_tokens: int) -> list[MeasuredForward]:
    """The forwards before the first new token. The last new token is never forwarded."""
    return list(forwards[: len(forwards) - (generated_tokens - 1)])


def step_ms(forwards: Sequence[MeasuredForward], generated_tokens: int) -> list[float]:
    """From the begin of one decoding forward to the next: a token, with all that goes with it."""
    decoding = forwards[len(forwards) - (generated_tokens - 1) :]
    assert all(each.tokens == 1 for each in decoding)
    return [(after.began_s - before.began_s) * 1000.0 for before, after in pairwise(decoding)]
