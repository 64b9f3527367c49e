"""Statistics of layers' outputs in every forward, measured by read-only hooks."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from tokentape.generation.hooks.forward_positions import (
    DECODE,
    PREFILL,
    ForwardPositions,
    track_positions,
)
from tokentape.generation.hooks.hook_types import ReadOnlyHook
from tokentape.generation.hooks.layers import find_layer, tensor_in
from tokentape.generation.introspection.activation_statistics import (
    ActivationSpan,
    LayerMeasurement,
    measure,
    observation_events,
)
from tokentape.recorder.events import ActivationObserved

# Forwards whose measures stay on the device until they are transferred.
_PENDING_FORWARDS_MAX = 256


class ActivationMonitor:
    """Measures the outputs of chosen layers in the forwards inside an `observe` context.

    It has an event per forward, and per source (prefill, decode, recomputed) a running span of
    consecutive positions. Measures stay on the device until `take_events` or `latest` transfers
    those of all layers at once. A forward that raises leaves no measures.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        layers: Iterable[str | int],
        *,
        full: bool = False,
        events: bool = True,
        sources: Sequence[str] = (PREFILL, DECODE),
    ) -> None:
        """Find the layers, named as in `find_layer`. Raise ToolError for an unknown one.

        `full` adds kurtosis, percentiles, top channels and a histogram. With `events` each forward
        of `sources` becomes an event for `take_events`.
        """
        self._model = model
        self._modules = dict(find_layer(model, layer) for layer in layers)
        self._full = full
        self._wants_events = events
        self._sources = tuple(sources)
        self._pending: list[LayerMeasurement] = []
        self._events: list[ActivationObserved] = []
        # By layer and source, the latest last.
        self._spans: dict[str, dict[str, ActivationSpan]] = {name: {} for name in self._modules}

    @property
    def layers(self) -> tuple[str, ...]:
        """The full names of the observed layers."""
        return tuple(self._modules)

    @contextmanager
    def observe(self, forward: ForwardPositions | None = None) -> Iterator[None]:
        """Observe the forwards inside this context.

        `forward` must be updated by `track_positions`; without it, positions are tracked here.
        """
        with ExitStack() as stack:
            if forward is None:
                forward = stack.enter_context(track_positions(self._model))
            for name, module in self._modules.items():
                hook = self._hook(name, forward)
                stack.callback(module.register_forward_hook(hook).remove)
            try:
                yield
            except BaseException:
                self._drop_last_forward()
                raise

    def take_events(self) -> list[ActivationObserved]:
        """Return the events since the last call. Call it between forwards."""
        self._settle()
        events, self._events = self._events, []
        return events

    def latest(self, layer: str, source: str | None = None) -> ActivationSpan | None:
        """Return the latest span of a layer, of this source if one is given; None without one."""
        self._settle()
        spans = self._spans.get(layer, {})
        return spans.get(source) if source else next(reversed(spans.values()), None)

    def _hook(self, name: str, forward: ForwardPositions) -> ReadOnlyHook:
        @torch.no_grad()
        def measure_output(module: Any, args: Any, output: Any) -> None:
            if forward.source not in self._sources:
                return
            rows = _rows_of(output, forward.length)
            if rows is None:
                return
            if len(self._pending) >= _PENDING_FORWARDS_MAX * len(self._modules):
                self._settle()
            measures, bins, channel_sums = (*measure(rows, full=self._full), None, None)[:3]
            assert measures is not None
            self._pending.append(
                LayerMeasurement(
                    layer=name,
                    turn=forward.turn,
                    source=forward.source,
                    start=forward.start,
                    end=forward.end,
                    rows=rows.shape[0],
                    channels=rows.shape[1],
                    measures=measures,
                    bins=bins,
                    channel_sums=channel_sums,
                )
            )

        return ReadOnlyHook(measure_output)

    def _drop_last_forward(self) -> None:
        """Drop the measures of the last forward, which may have run some of the layers only."""
        if self._pending:
            last = _range_of(self._pending[-1])
            self._pending = [each for each in self._pending if _range_of(each) != last]

    def _settle(self) -> None:
        """Transfer the pending measures and add them to events and spans."""
        pending, self._pending = self._pending, []
        forward: dict[str, ActivationSpan] = {}
        for index, (measurement, measures) in enumerate(
            zip(pending, _transferred(pending), strict=True)
        ):
            self._extend_span(measurement, measures)
            if not self._wants_events:
                continue
            if index and _range_of(measurement) != _range_of(pending[index - 1]):
                self._events += observation_events(forward.values(), full=self._full)
                forward = {}
            if measurement.layer not in forward:
                forward[measurement.layer] = _new_span(measurement)
            forward[measurement.layer].add(measurement, measures)
        self._events += observation_events(forward.values(), full=self._full)

    def _extend_span(self, measurement: LayerMeasurement, measures: list[float]) -> None:
        spans = self._spans[measurement.layer]
        span = spans.pop(measurement.source, None)
        if span is None or not span.continues_with(measurement):
            span = _new_span(measurement)
        span.add(measurement, measures)
        spans[measurement.source] = span


def _new_span(first: LayerMeasurement) -> ActivationSpan:
    return ActivationSpan(first.layer, first.turn, first.source, first.start)


def _range_of(measurement: LayerMeasurement) -> tuple[int, str, int, int]:
    return measurement.turn, measurement.source, measurement.start, measurement.end


def _transferred(pending: Sequence[LayerMeasurement]) -> list[list[float]]:
    """Return the measures of all in order, with one transfer per device."""
    found: list[list[float]] = [[] for _ in pending]
    for device in {each.measures.device for each in pending}:
        indices = [index for index, each in enumerate(pending) if each.measures.device == device]
        transferred = torch.stack([pending[index].measures for index in indices]).tolist()
        for index, measures in zip(indices, transferred, strict=True):
            found[index] = measures
    return found


def _rows_of(output: Any, length: int) -> torch.Tensor | None:
    """Return a module's output as (positions, channels); None if it has no numbers to measure."""
    tensor = tensor_in(output)
    if tensor is None or tensor.numel() == 0 or tensor.is_complex() or length < 1:
        return None
    tensor = tensor.detach()
    # The axis of positions is the first, or follows a batch axis of size one, or also the heads.
    for axis in range(min(3, tensor.dim())):
        if tensor.shape[axis] == length and (axis == 0 or tensor.shape[0] == 1):
            return tensor.movedim(axis, 0).reshape(length, -1)
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else None
