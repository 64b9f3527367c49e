"""The architecture of a model: sizes, layers, and the names and shapes of tensors."""

import fnmatch
import re
from collections import Counter
from typing import Any

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.hf.layer_cast import compute_dtype, weights_dtype
from tokentape.generation.hooks.layers import decoder_layers
from tokentape.generation.introspection.tensor_chunks import (
    named_tensors,
    quantization_of,
    unpacked_shape,
)

_LISTED_MAX = 40
_PATTERN_MAX = 200
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_SIZES = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "attention_heads": "num_attention_heads",
    "key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocabulary": "vocab_size",
    "context_tokens": "max_position_embeddings",
    "sliding_window": "sliding_window",
}


def architecture_summary(model: Any) -> dict[str, Any]:
    """Return sizes, kinds of layers, and counts of parameters; tied parameters count once."""
    config = model.config.get_text_config()
    layers = decoder_layers(model)
    sizes = {name: getattr(config, field, None) for name, field in _SIZES.items()}
    kinds = Counter(getattr(config, "layer_types", None) or ())
    total = sum(each.numel() for each in model.parameters())
    within = sum(each.numel() for _, layer in layers for each in layer.parameters())
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    stored, computed = (
        str(each).removeprefix("torch.") for each in (weights_dtype(model), compute_dtype(model))
    )
    return {
        "class": type(model).__name__,
        "model_type": config.model_type,
        "dtype": stored,
        **({"compute_dtype": computed} if computed != stored else {}),
        "attention_kernel": attention_kernel(model),
        **_quantization(model),
        "decoder_layers": len(layers),
        **({"layer_kinds": dict(kinds)} if kinds else {}),
        **{name: value for name, value in sizes.items() if value is not None},
        "parameters": total,
        "parameters_per_layer": within // len(layers),
        "parameters_outside_layers": total - within,
        "tied_embeddings": head is not None and head.weight is embedding.weight,
        "first_layer": layers[0][0],
        "parts_of_a_layer": [name for name, _ in layers[0][1].named_children()],
    }


def _quantization(model: torch.nn.Module) -> dict[str, Any]:
    """Return how many parameters are packed, by the class that packs them; empty if none is."""
    packed: Counter[str] = Counter()
    for each in model.parameters():
        if quantization_of(each) is not None:
            packed[type(each).__name__] += torch.Size(unpacked_shape(each)).numel()
    return {"quantized_parameters": dict(packed)} if packed else {}


def list_layers(model: torch.nn.Module, pattern: str | None) -> dict[str, Any]:
    """Return the names and shapes of the tensors that match a pattern, at most 40.

    A pattern is a glob for the whole name, or, if no name matches it, a regular expression to
    search for. Without a pattern, tensors whose names differ in numbers only are grouped. Raise
    ToolError for an invalid pattern.
    """
    tensors = named_tensors(model)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if not pattern:
        return _grouped(shapes)
    if len(pattern) > _PATTERN_MAX:
        raise ToolError(f"a pattern has at most {_PATTERN_MAX} characters")
    names = [name for name in shapes if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise ToolError(
                f"no name matches {pattern!r}, and it is not a regular expression: {error}"
            ) from None
        names = [name for name in shapes if expression.search(name)]
    found: dict[str, Any] = {
        "matching": len(names),
        "layers": {name: shapes[name] for name in names[:_LISTED_MAX]},
    }
    return found | _rest(len(names))


def _grouped(shapes: dict[str, list[int]]) -> dict[str, Any]:
    groups = Counter((_NUMBER.sub("*", name), tuple(shape)) for name, shape in shapes.items())
    shown = [
        {"name": name, "shape": shape, "count": count}
        for (name, shape), count in list(groups.items())[:_LISTED_MAX]
    ]
    return {"matching": len(shapes), "groups": shown} | _rest(len(groups))


def _rest(count: int) -> dict[str, Any]:
    more = count - _LISTED_MAX
    return {"not_listed": more} if more > 0 else {}
