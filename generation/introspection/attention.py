"""Which positions a head looks at."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.hf.attention_kernel import eager_attention
from tokentape.generation.hooks.forward_positions import recomputing
from tokentape.generation.hooks.hook_types import ReadOnlyHook
from tokentape.generation.hooks.layers import decoder_layers, find_layer
from tokentape.generation.introspection.recomputing import absolute, forward_anew, forward_next


def attention_row(
    model: Any, ids: Sequence[int], layer: str | int, *, position: int, turn: int
) -> tuple[str, int, torch.Tensor]:
    """The attention module, the absolute position, and its weights: float32, (heads, keys).

    The keys are the last up to and with the position: a sliding window has fewer. All before it is
    forwarded as the model does it, into a cache of its own; the position itself by the eager
    kernel, the only one that gives its weights out. Raises ToolError for a layer without attention.
    """
    name, module = _attention_of(model, layer)
    place = absolute(position, len(ids))
    taken: list[torch.Tensor] = []

    def take(module: Any, args: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(weights, torch.Tensor) and weights.dim() == 4:
            taken.append(weights[0, :, -1].float())

    # All the while the model is ours: nobody may find it with the other kernel.
    with recomputing(model, turn=turn):
        decoder = forward_anew(model, ids[:place], turn=turn) if place else None
        with eager_attention(model), _taking(module, take):
            if decoder is None:
                forward_anew(model, ids[:1], turn=turn)
            else:
                forward_next(model, decoder, ids[place], turn=turn)
    if not taken:
        raise ToolError(f"{name} gives no attention weights: it is a {type(module).__name__}")
    return name, place, taken[-1]


@contextmanager
def _taking(module: torch.nn.Module, take: Any) -> Iterator[None]:
    handle = module.register_forward_hook(ReadOnlyHook(take))
    try:
        yield
    finally:
        handle.remove()


def _attention_of(model: Any, layer: str | int) -> tuple[str, torch.nn.Module]:
    name, module = find_layer(model, layer)
    names = [each for each, _ in decoder_layers(model)]
    return (
        find_layer(model, f"blocks.{names.index(name)}.attn") if name in names else (name, module)
    )
