"""The sequence forwarded once more, beside the conversation and its cache."""

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

# Positions that are computed at once: what they take in memory does not grow with the sequence.
_CHUNK_TOKENS = 512

Watcher = ActivationMonitor | HiddenStateTap


def forward_anew(
    model: Any, ids: Sequence[int], *, turn: int, watcher: Watcher | None = None
) -> hf.Decoder:
    """A decoder that has forwarded `ids` into a cache of its own, watched while it did.

    Raises ToolError where there are no ids.
    """
    if not ids:
        raise ToolError("nothing has been said yet: there is nothing to recompute")
    with ExitStack() as stack:
        forward = stack.enter_context(recomputing(model, turn=turn))
        if watcher is not None:
            stack.enter_context(watcher.watching(forward))
        return _decoder(model, ids)


def forward_next(model: Any, decoder: hf.Decoder, token_id: int, *, turn: int) -> None:
    """One more token, behind what `forward_anew` has forwarded."""
    token = torch.tensor([[token_id]], device=decoder.prompt.device)
    with recomputing(model, turn=turn, start=decoder.held):
        decoder.forward(torch.cat([decoder.prompt, token], dim=-1))


def absolute(position: int, length: int) -> int:
    """A position of the sequence; negative ones count from its end. Raises ToolError beyond it."""
    whole = isinstance(position, int) and not isinstance(position, bool)
    if not whole or not -length <= position < length:
        raise ToolError(f"there is no position {position!r}: the sequence has {length} tokens")
    return position % length


def _decoder(model: Any, ids: Sequence[int]) -> hf.Decoder:
    config = hf.effective_config(model)
    cache = hf.new_cache(model, config, total_tokens=len(ids) + 1)
    prompt = torch.tensor([list(ids)], device=model.device)
    decoder = hf.Decoder(model, config, prompt, cache)
    decoder.prefill(_CHUNK_TOKENS if cache_policy(model, config).splits_prefill else None)
    return decoder
