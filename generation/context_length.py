"""The length of a model's context, as its config describes it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_LENGTH_NAMES = ("max_position_embeddings", "max_sequence_length", "max_seq_len")
# Kinds of RoPE whose factor multiplies the length that the model was trained with.
_STRETCHING = frozenset({"linear", "dynamic", "yarn", "longrope", "su", "ntk"})
# Their `max_position_embeddings` is the stretched length already, although the config has no
# original length (vLLM makes the same exception in `_get_and_verify_max_len`).
_STRETCHED_FAMILIES = ("gemma3",)


def context_tokens(model: Any) -> int | None:
    """Return the longest sequence that the config allows; None if it has no limit.

    RoPE that is scaled (linear, dynamic, YaRN, LongRoPE) reaches its factor times the original
    length, which may exceed `max_position_embeddings`. Models with ALiBi have no limit.
    """
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "alibi", None) is True:
        return None
    lengths = (_positive(getattr(config, name, None)) for name in _LENGTH_NAMES)
    length = next((each for each in lengths if each is not None), None)
    if length is None:
        return None
    return max(length, *(_stretched(scope, config, length) for scope in _rope_scopes(config)), 0)


def position_table_tokens(model: Any) -> int | None:
    """Return the length of a table of learned positions, which no sequence can exceed, or None."""
    config = model.config.get_text_config(decoder=True)
    length = _positive(getattr(config, "max_position_embeddings", None))
    if length is None or any(_rope_scopes(config)):
        return None
    words = model.get_input_embeddings()
    tables = (
        module.num_embeddings
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding) and module is not words
    )
    # Some tables have a few rows for offsets (OPT: two).
    return length if any(length <= rows <= length + 2 for rows in tables) else None


def _rope_scopes(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of RoPE, or those of each type of layer; older configs: its scaling."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None)
        if isinstance(rope, Mapping):
            yield from (each for each in (rope, *rope.values()) if isinstance(each, Mapping))


def _stretched(scope: Mapping[str, Any], config: Any, length: int) -> int:
    kind = scope.get("rope_type", scope.get("type"))
    factor = scope.get("factor")
    if kind not in _STRETCHING or not isinstance(factor, int | float) or not math.isfinite(factor):
        return 0
    original = scope.get("original_max_position_embeddings")
    original = _positive(original or getattr(config, "original_max_position_embeddings", None))
    if original is None or original == length:
        if str(getattr(config, "model_type", "")).startswith(_STRETCHED_FAMILIES):
            return 0
        original = length
    return int(original * factor)


def _positive(value: object) -> int | None:
    is_length = isinstance(value, int | float) and not isinstance(value, bool) and value >= 1
    return int(value) if is_length else None  # type: ignore[call-overload]
