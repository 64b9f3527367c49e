"""The attention weights of one position."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.hf.attention_kernel import using_attention
from tokentape.generation.hooks.forward_positions import recomputing
from tokentape.generation.hooks.hook_types import ReadOnlyHook
from tokentape.generation.hooks.layers import decoder_layers, find_layer
from tokentape.generation.introspection.recompute import absolute_position, forward_token, recompute


def attention_row(
    model: Any, ids: Sequence[int], layer: str | int, *, position: int, turn: int
) -> tuple[str, int, torch.Tensor]:
    """Return the attention module's name, the absolute position, and its attention weights.

    The weights are float32, shape (heads, keys). The last key is the position itself; with a
    sliding window there are fewer keys than positions. The tokens before the position are forwarded
    with the model's own attention kernel into a separate cache, the position with the eager kernel,
    the only one that returns weights. Raise ToolError for a layer without attention.
    """
    name, module = _attention_of(model, layer)
    index = absolute_position(position, len(ids))
    captured: list[torch.Tensor] = []

    def capture(module: Any, args: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(weights, torch.Tensor) and weights.dim() == 4:
            captured.append(weights[0, :, -1].float())

    # `recomputing` holds the model's lock, so no other forward runs with the eager kernel.
    with recomputing(model, turn=turn):
        decoder = recompute(model, ids[:index], turn=turn) if index else None
        with using_attention(model, "eager"), _capturing(module, capture):
            if decoder is None:
                recompute(model, ids[:1], turn=turn)
            else:
                forward_token(model, decoder, ids[index], turn=turn)
    if not captured:
        raise ToolError(f"{name} has no attention weights: it is a {type(module).__name__}")
    return name, index, captured[-1]


@contextmanager
def _capturing(module: torch.nn.Module, capture: Any) -> Iterator[None]:
    handle = module.register_forward_hook(ReadOnlyHook(capture))
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
