"""Hidden states of chosen layers at the newest position, without a second forward."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import torch

from tokentape.generation.hooks.forward_positions import (
    DECODE,
    PREFILL,
    ForwardPositions,
    track_positions,
)
from tokentape.generation.hooks.hook_types import ReadOnlyHook
from tokentape.generation.hooks.layers import find_layer, output_of


class HiddenStateTap:
    """Keeps what layers gave at the last position of the newest forward."""

    def __init__(
        self,
        model: torch.nn.Module,
        layers: Iterable[str | int],
        *,
        sources: tuple[str, ...] = (PREFILL, DECODE),
    ) -> None:
        """`layers` are named as in `find_layer`, which raises ToolError for an unknown one."""
        self._model = model
        self._modules = dict(find_layer(model, layer) for layer in layers)
        self._sources = sources
        self._newest: dict[str, torch.Tensor] = {}

    @property
    def newest(self) -> Mapping[str, torch.Tensor]:
        """By the full names of the layers, shape (hidden,), on the model's device. One's own to
        keep, and to train on: no gradient reaches the model."""
        return MappingProxyType(dict(self._newest))

    @contextmanager
    def watching(self, forward: ForwardPositions | None = None) -> Iterator[None]:
        """Look at the forwards in here. `forward` must be counted; without one it is done here."""
        with ExitStack() as stack:
            if forward is None:
                forward = stack.enter_context(track_positions(self._model))
            for name, module in self._modules.items():
                hook = self._hook(name, forward)
                stack.callback(module.register_forward_hook(hook).remove)
            yield

    def _hook(self, name: str, forward: ForwardPositions) -> ReadOnlyHook:
        def keep(module: Any, args: Any, output: Any) -> None:
            if forward.source not in self._sources:
                return
            tensor = output_of(output)
            # The engine forwards in inference mode, of which nothing may get out.
            with torch.inference_mode(False), torch.no_grad():
                self._newest[name] = tensor.reshape(-1, tensor.shape[-1])[-1].clone()

        return ReadOnlyHook(keep)
