"""Forward the conversation again, into a cache of its own."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from tokentape.generation import hf
from tokentape.generation.cache import cache_policy
from tokentape.generation.errors import ToolError
from tokentape.generation.hooks.forward_positions import recomputing
from tokentape.generation.introspection.activations import ActivationMonitor
from tokentape.generation.introspection.hidden_states import HiddenStateTap
from tokentape.recorder.plain_values import plain_number

# Positions per forward, so that memory does not grow with the sequence.
_CHUNK_TOKENS = 512

ForwardObserver = ActivationMonitor | HiddenStateTap


def recompute(
    model: Any, ids: Sequence[int], *, turn: int, observer: ForwardObserver | None = None
) -> hf.Decoder:
    """Forward `ids` into a new cache under an observer, and return the decoder with the cache.

    Raise ToolError if there are no ids.
    """
    if not ids:
        raise ToolError("the conversation is empty: there is nothing to recompute")
    with ExitStack() as stack:
        forward = stack.enter_context(recomputing(model, turn=turn))
        if observer is not None:
            stack.enter_context(observer.observe(forward))
        return _decoder(model, ids)


def forward_token(model: Any, decoder: hf.Decoder, token_id: int, *, turn: int) -> None:
    """Forward one token after those that `recompute` has forwarded."""
    token = torch.tensor([[token_id]], device=decoder.prompt.device)
    with recomputing(model, turn=turn, start=decoder.held):
        decoder.forward(torch.cat([decoder.prompt, token], dim=-1))


def absolute_position(position: int, length: int) -> int:
    """Return a position from 0; negative ones count from the end. Raise ToolError if outside."""
    position = plain_number(position)
    is_integer = isinstance(position, int) and not isinstance(position, bool)
    if not is_integer or not -length <= position < length:
        raise ToolError(f"there is no position {position!r}: the sequence has {length} tokens")
    return position % length


def _decoder(model: Any, ids: Sequence[int]) -> hf.Decoder:
    config = hf.prefill_config(model)
    cache = hf.new_cache(model, config, total_tokens=len(ids) + 1)
    prompt = torch.tensor([list(ids)], device=model.device)
    decoder = hf.Decoder(model, config, prompt, cache)
    decoder.prefill(_CHUNK_TOKENS if cache_policy(model, config).splits_prefill else None)
    return decoder
