"""Observers of a turn's forwards: the activation monitor and the tap of the caller's observer."""

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
    """The observations of a running turn."""

    def __init__(
        self,
        positions: ForwardPositions,
        monitor: ActivationMonitor | None,
        tap: HiddenStateTap | None,
    ) -> None:
        self._positions = positions
        self._monitor = monitor
        self._tap = tap

    def prefill_done(self) -> None:
        """Label the forwards from here on as decoding."""
        self._positions.source = DECODE

    def hidden_states(self) -> Mapping[str, torch.Tensor]:
        """Return the outputs of the tapped layers at the newest position, in shape (hidden,).

        Empty if no layer is tapped.
        """
        return {} if self._tap is None else self._tap.latest

    def events(self) -> Sequence[ActivationObserved]:
        """Return the monitor's events since the last call."""
        return [] if self._monitor is None else self._monitor.take_events()


@contextmanager
def observe_forwards(
    model: Any,
    monitor: ActivationMonitor | None,
    layers: Sequence[str | int],
    *,
    turn: int,
    cached_tokens: int,
) -> Iterator[TurnObservers]:
    """Hook the model for the turn's observers; without a monitor and layers, hook nothing.

    `layers` are those whose hidden states the caller's observer receives. The first forward begins
    at position `cached_tokens`.
    """
    positions = ForwardPositions(end=cached_tokens, source=PREFILL, turn=turn)
    tap = HiddenStateTap(model, layers) if layers else None
    with ExitStack() as stack:
        if monitor is not None or tap is not None:
            stack.enter_context(track_positions(model, positions))
        for each in (monitor, tap):
            if each is not None:
                stack.enter_context(each.observe(positions))
        yield TurnObservers(positions, monitor, tap)
