"""Who looks at the forwards of a turn: a monitor of activations, and the turn's own observer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from tokentape.generation.hooks.forward_positions import (
    DECODE,
    PREFILL,
    ForwardPositions,
    track_positions,
)
from tokentape.generation.introspection.activations import ActivationMonitor
from tokentape.generation.introspection.hidden_states import HiddenStateTap
from tokentape.recorder.events import ActivationObserved


class TurnObservers:
    """What is seen of a turn as it goes on."""

    def __init__(
        self,
        forward: ForwardPositions,
        monitor: ActivationMonitor | None,
        tap: HiddenStateTap | None,
    ) -> None:
        self._forward = forward
        self._monitor = monitor
        self._tap = tap

    def decodes(self) -> None:
        """The prompt is through: what comes is a token at a time."""
        self._forward.source = DECODE

    def hidden_states(self) -> Mapping[str, torch.Tensor]:
        """What layers gave at the newest position, for the observer."""
        return {} if self._tap is None else self._tap.newest

    def events(self) -> Sequence[ActivationObserved]:
        """What the monitor has seen since the last time."""
        return [] if self._monitor is None else self._monitor.take()


@contextmanager
def watching(
    model: Any,
    monitor: ActivationMonitor | None,
    layers: Sequence[str | int],
    *,
    turn: int,
    held_tokens: int,
) -> Iterator[TurnObservers]:
    """Look at the forwards in here, the first of them behind so many tokens.

    `layers` are those whose hidden states an observer asked for. Where nobody looks, nothing is
    hooked.
    """
    forward = ForwardPositions(end=held_tokens, source=PREFILL, turn=turn)
    tap = HiddenStateTap(model, layers) if layers else None
    with ExitStack() as stack:
        if monitor is not None or tap is not None:
            stack.enter_context(track_positions(model, forward))
        for each in (monitor, tap):
            if each is not None:
                stack.enter_context(each.watching(forward))
        yield TurnObservers(forward, monitor, tap)
