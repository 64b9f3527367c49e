"""One forward of several sequences, padded at their ends to the length of the longest.

A causal model computes a token from those before it, so that padding after a sequence changes none
of its logits beyond rounding: matrices of other shapes are multiplied in another order.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.caches import cache_argument
from tokentape.generation.hf.signatures import unwrapped
from tokentape.generation.hooks.hook_types import InputHook

_PADDING_ID = 0


def output_layer(model: Any) -> torch.nn.Module | None:
    """Return the module that computes the logits of hidden states, or None if none is known."""
    found = unwrapped(model).get_output_embeddings()
    return found if isinstance(found, torch.nn.Module) else None


def repeat_cache(cache: Cache, sequences: int) -> Cache:
    """Return a copy of the cache of one sequence with the same entries for each of several.

    The layers are those that hold keys and values only.
    """
    copied = copy.deepcopy(cache)
    layers: list[Any] = copied.layers
    for layer in layers:
        layer.batch_repeat_interleave(sequences)
    return copied


def forward_padded(
    model: Any,
    sequences: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    cache: Cache,
) -> list[torch.Tensor]:
    """Forward sequences of ids onto a cache; return logits of some rows of each, (rows, vocab).

    `cache` is empty, or has an entry for each of the sequences, all of one length. Ids and rows
    count from its end. Raise ModelError if the model computes its logits elsewhere than in its
    output layer.
    """
    longest = max(map(len, sequences))
    padded = [[*each, *[_PADDING_ID] * (longest - len(each))] for each in sequences]
    wanted = [number * longest + row for number, each in enumerate(rows) for row in each]
    places = torch.tensor(wanted, dtype=torch.long, device=model.device)

    def select(layer: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0].reshape(-1, inputs[0].shape[-1])
        return (hidden[places.to(hidden.device)][None], *inputs[1:])

    layer = output_layer(model)
    if layer is None:
        raise ModelError(f"{type(model).__name__} names no layer that computes its logits")
    handle = layer.register_forward_pre_hook(InputHook(select))
    try:
        logits: torch.Tensor = model(
            input_ids=torch.tensor(padded, dtype=torch.long, device=model.device),
            use_cache=True,
            return_dict=True,
            **cache_argument(model, cache),
        ).logits
    finally:
        handle.remove()
    if logits.shape[:2] != (1, len(wanted)):
        raise ModelError(f"{type(model).__name__} does not compute its logits in its output layer")
    return list(torch.split(logits[0], [len(each) for each in rows]))
