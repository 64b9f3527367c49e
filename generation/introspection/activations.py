"""What chosen layers give, measured in every forward through hooks that change nothing."""

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
from tokentape.generation.introspection.spans import Look, Span, look_at, observed
from tokentape.recorder.events import ActivationObserved

# So many forwards are kept on the device before they are brought over unasked.
_WAITING_MAX = 256


class ActivationMonitor:
    """Statistics of layers, for each forward and for the newest stretch of each source.

    Entered around forwards with `watching`; what they gave is brought to this memory between them,
    all layers at once, by `take` or `newest`. Nothing of a forward that failed is kept.
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
        """`layers` are named as in `find_layer`, which raises ToolError for an unknown one.

        `full` measures kurtosis, percentiles, top channels and a histogram as well. With `events`
        each forward of `sources` becomes an event, which waits for `take`.
        """
        self._model = model
        self._modules = dict(find_layer(model, layer) for layer in layers)
        self._full = full
        self._wants_events = events
        self._sources = tuple(sources)
        self._waiting: list[Look] = []
        self._events: list[ActivationObserved] = []
        # By layer, the newest last.
        self._spans: dict[str, dict[str, Span]] = {name: {} for name in self._modules}

    @property
    def layers(self) -> tuple[str, ...]:
        """The full names of the layers that are watched."""
        return tuple(self._modules)

    @contextmanager
    def watching(self, forward: ForwardPositions | None = None) -> Iterator[None]:
        """Look at the forwards in here. `forward` must be counted; without one it is done here."""
        with ExitStack() as stack:
            if forward is None:
                forward = stack.enter_context(track_positions(self._model))
            for name, module in self._modules.items():
                hook = self._hook(name, forward)
                stack.callback(module.register_forward_hook(hook).remove)
            try:
                yield
            except BaseException:
                self._forget_newest_forward()
                raise

    def take(self) -> list[ActivationObserved]:
        """The events since the last time. To be called between forwards."""
        self._settle()
        events, self._events = self._events, []
        return events

    def newest(self, layer: str, source: str | None = None) -> Span | None:
        """The newest stretch that this layer was seen over, if any, of a source if one is named."""
        self._settle()
        spans = self._spans.get(layer, {})
        return spans.get(source) if source else next(reversed(spans.values()), None)

    def _hook(self, name: str, forward: ForwardPositions) -> ReadOnlyHook:
        @torch.no_grad()
        def look(module: Any, args: Any, output: Any) -> None:
            if forward.source not in self._sources:
                return
            rows = _rows_of(output, forward.length)
            if rows is None:
                return
            if len(self._waiting) >= _WAITING_MAX * len(self._modules):
                self._settle()
            measures, bins, channel_sums = (*look_at(rows, full=self._full), None, None)[:3]
            assert measures is not None
            self._waiting.append(
                Look(
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

        return ReadOnlyHook(look)

    def _forget_newest_forward(self) -> None:
        """It may have gone through some of the layers only."""
        if self._waiting:
            newest = _range_of(self._waiting[-1])
            self._waiting = [each for each in self._waiting if _range_of(each) != newest]

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        forward: dict[str, Span] = {}
        for index, (look, measures) in enumerate(zip(waiting, _brought(waiting), strict=True)):
            self._continue_span(look, measures)
            if not self._wants_events:
                continue
            if index and _range_of(look) != _range_of(waiting[index - 1]):
                self._events += observed(forward.values(), full=self._full)
                forward = {}
            if look.layer not in forward:
                forward[look.layer] = Span(look.layer, look.turn, look.source, look.start)
            forward[look.layer].add(look, measures)
        self._events += observed(forward.values(), full=self._full)

    def _continue_span(self, look: Look, measures: list[float]) -> None:
        spans = self._spans[look.layer]
        span = spans.pop(look.source, None)
        if span is None or not span.goes_on_with(look):
            span = Span(look.layer, look.turn, look.source, look.start)
        span.add(look, measures)
        spans[look.source] = span


def _range_of(look: Look) -> tuple[int, str, int, int]:
    return look.turn, look.source, look.start, look.end


def _brought(looks: Sequence[Look]) -> list[list[float]]:
    """The measures of all, in one transfer from each device that they are on."""
    found: list[list[float]] = [[] for _ in looks]
    for device in {each.measures.device for each in looks}:
        places = [index for index, each in enumerate(looks) if each.measures.device == device]
        brought = torch.stack([looks[place].measures for place in places]).tolist()
        for place, measures in zip(places, brought, strict=True):
            found[place] = measures
    return found


def _rows_of(output: Any, length: int) -> torch.Tensor | None:
    """What a module gave as (positions, channels), or None where that has no numbers to measure."""
    tensor = tensor_in(output)
    if tensor is None or tensor.numel() == 0 or tensor.is_complex() or length < 1:
        return None
    tensor = tensor.detach()
    # The sequence comes first, or behind a batch of one, or behind the heads as well.
    for axis in range(min(3, tensor.dim())):
        if tensor.shape[axis] == length and (axis == 0 or tensor.shape[0] == 1):
            return tensor.movedim(axis, 0).reshape(length, -1)
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else None
