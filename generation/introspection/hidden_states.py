"""Hidden states of chosen layers at the last position of a forward."""

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
    """Copies the outputs of chosen layers at the last position of the latest forward."""

    def __init__(
        self,
        model: torch.nn.Module,
        layers: Iterable[str | int],
        *,
        sources: tuple[str, ...] = (PREFILL, DECODE),
    ) -> None:
        """Find the layers, named as in `find_layer`. Raise ToolError for an unknown one."""
        self._model = model
        self._modules = dict(find_layer(model, layer) for layer in layers)
        self._sources = sources
        self._latest: dict[str, torch.Tensor] = {}

    @property
    def latest(self) -> Mapping[str, torch.Tensor]:
        """Hidden states by full layer name, shape (hidden,), on the model's device.

        They are copies without gradients that the caller may keep and train on.
        """
        return MappingProxyType(dict(self._latest))

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
            yield

    def _hook(self, name: str, forward: ForwardPositions) -> ReadOnlyHook:
        def copy_last(module: Any, args: Any, output: Any) -> None:
            if forward.source not in self._sources:
                return
            tensor = output_of(output)
            # The engine runs in inference mode, but callers must not get inference tensors.
            with torch.inference_mode(False), torch.no_grad():
                self._latest[name] = tensor.reshape(-1, tensor.shape[-1])[-1].clone()

        return ReadOnlyHook(copy_last)
