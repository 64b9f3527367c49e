"""The output of `generate(return_dict_in_generate=True)`, whose field for the cache was renamed."""

from dataclasses import fields
from typing import Any

import torch
from transformers.generation.utils import GenerateDecoderOnlyOutput

_CACHE_FIELDS = ("cache", "past_key_values")


def generate_output(
    *,
    sequences: torch.Tensor,
    scores: tuple[torch.Tensor, ...] | None,
    logits: tuple[torch.Tensor, ...] | None,
    cache: Any,
) -> GenerateDecoderOnlyOutput:
    """Return the output of a decoder, with the cache under the name that this release uses.

    `scores` and `logits` have a tensor of shape (1, vocab) for each token.
    """
    # transformers declares tuples of one element.
    values: Any = {"sequences": sequences, "scores": scores, "logits": logits}
    names = {field.name for field in fields(GenerateDecoderOnlyOutput)}
    cache_field = next(name for name in _CACHE_FIELDS if name in names)
    return GenerateDecoderOnlyOutput(**values, **{cache_field: cache})


def cache_of(output: Any) -> Any:
    """Return the cache of an output of `generate` or of a forward, or None."""
    names = (*_CACHE_FIELDS, "cache_params")
    return next((getattr(output, name) for name in names if name in output), None)
