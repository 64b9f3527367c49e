"""The storage that each layer of a cache needs, read from a cache that holds a few tokens."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from tokentape.generation.hf.caches import new_cache, shares_with_forks, tensors_of
from tokentape.generation.hf.decoder import Decoder
from tokentape.generation.hf.generation_config import prefill_config
from tokentape.generation.hf.growing_layer import GrowingLayer

_TOKENS = 3
"""Tokens that are forwarded on the meta device to see the shapes of a cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayer:
    """The storage that one layer of a cache needs for one sequence."""

    token_bytes: int
    """Bytes of the keys and values of one token; 0 for a layer without them."""
    window_tokens: int | None
    """The length of the sliding window, of which one less is stored; None for all tokens."""
    fixed_bytes: int
    """Bytes that do not depend on the number of tokens: recurrent states, counters."""
    grows_in_place: bool
    """Whether the layer has spare capacity; see `GrowingLayer`."""
    forks_share: bool
    """Whether a fork shares the tensors, as long as neither is appended to."""


def kv_layers_of(model: Any) -> tuple[KvLayer, ...]:
    """Return the storage of the layers of a model's cache, seen in a forward of a few tokens.

    The model is on torch's meta device: its own code runs, and nothing is computed. Where that code
    looks at numbers, the layers are those of full attention in the sizes of the config.
    """
    ids = torch.zeros((1, _TOKENS), dtype=torch.long, device="meta")
    with _without_numbers(model.config):
        try:
            decoder = Decoder(model, prefill_config(model), ids, new_cache(model))
            decoder.prefill()
            layers = kv_layers(decoder.cache)
        except Exception:  # a model may do anything with tensors that have no numbers
            layers = ()
    stores = any(each.token_bytes or each.fixed_bytes for each in layers)
    return layers if stores else _full_attention(model)


@contextmanager
def _without_numbers(config: Any) -> Iterator[None]:
    """Within this context, let a model neither look for padding nor choose experts."""
    before = copy.copy(vars(config))
    config.pad_token_id, config._experts_implementation = None, "batched_mm"
    try:
        yield
    finally:
        vars(config).clear()
        vars(config).update(before)


def _full_attention(model: Any) -> tuple[KvLayer, ...]:
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", 1)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    layer = KvLayer(
        token_bytes=2 * kv_heads * head_dim * model.dtype.itemsize,
        window_tokens=None,
        fixed_bytes=0,
        grows_in_place=True,
        forks_share=True,
    )
    return (layer,) * int(config.num_hidden_layers)


def kv_layers(cache: Cache) -> tuple[KvLayer, ...]:
    """Return the storage of each layer, read from a cache that holds at least one token.

    The tensors may be on torch's meta device.
    """
    layers: list[Any] = cache.layers
    return tuple(_kv_layer(layer) for layer in layers)


def _kv_layer(layer: Any) -> KvLayer:
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    states = [each for each in (keys, values) if isinstance(each, torch.Tensor) and each.numel()]
    rest = {name: value for name, value in vars(layer).items() if name not in ("keys", "values")}
    window = getattr(layer, "sliding_window", None)
    return KvLayer(
        token_bytes=sum(_token_bytes(each) for each in states),
        window_tokens=window if isinstance(window, int) else None,
        # All storages count, also of several tensors of one shape: on the meta device no address
        # tells whether two share one.
        fixed_bytes=sum(each.untyped_storage().nbytes() for each in tensors_of(rest)),
        grows_in_place=isinstance(layer, GrowingLayer),
        forks_share=shares_with_forks(layer),
    )


def _token_bytes(states: torch.Tensor) -> int:
    """Return the bytes of one token of keys or values, shape (1, heads, tokens, dim)."""
    return states.numel() // states.shape[-2] * states.element_size()
