"""Lookup of a model's modules by their common names."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tokentape.generation.errors import ModelError, ToolError
from tokentape.recorder.plain_values import plain_number

_ATTENTION = ("self_attn", "attn", "linear_attn", "attention", "mixer")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe")
# Gemma and OLMo 2 normalise the output of a block before it is added to the residual stream.
# TransformerLens means the normalised output there.
_NORMALISED = "post_feedforward_layernorm"
_ALIAS = re.compile(r"blocks\.(-?\d{1,9})\.(\w+)")
_HOOKS = ("hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn", "mlp")
_NUMBER = re.compile(r"-?\d{1,9}")


def find_layer(model: torch.nn.Module, name: str | int) -> tuple[str, torch.nn.Module]:
    """Return the full name of a module, and the module.

    `name` is a full name (`model.layers.3.mlp`), the number of a decoder layer (3, "3", or "-1" for
    the last), or a name of TransformerLens: `blocks.3.hook_resid_post`, `.hook_attn_out`,
    `.hook_mlp_out`, `.attn`, `.mlp`. Raise ToolError with the nearest names if there is no match.
    """
    name = plain_number(name)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise ToolError(f"a layer is a name or a number, not {name!r}")
    text = str(name).strip()
    if _NUMBER.fullmatch(text):
        return _numbered(model, text)
    alias = _ALIAS.fullmatch(text)
    modules = dict(model.named_modules())
    if text and text in modules:
        return text, modules[text]
    if alias is not None:
        return _aliased(model, *alias.groups())
    modules.pop("", None)
    raise ToolError(f"there is no layer {text!r}{hint_of_nearest(text, modules)}")


def decoder_layers(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Return the decoder layers in order, with their full names.

    Raise ToolError if the model has no list of layers.
    """
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module)
    ]
    if not stacks:
        raise ToolError(f"{type(model).__name__} has no numbered layers")
    count = _layers_in_config(model)
    # The outermost list: a layer may contain lists too, e.g. of experts.
    name, stack = min(stacks, key=lambda each: (len(each[1]) != count, each[0].count(".")))
    return [(f"{name}.{index}", layer) for index, layer in enumerate(stack)]


def output_of(output: Any) -> torch.Tensor:
    """Return the first tensor of a module's output; attention returns its weights as well.

    Raise ToolError if there is no tensor.
    """
    tensor = tensor_in(output)
    if tensor is None:
        raise ToolError(f"this layer returns no tensor but a {type(output).__name__}")
    return tensor


def tensor_in(output: Any) -> torch.Tensor | None:
    """Return the first tensor of a module's output, or None."""
    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    if not isinstance(values, Iterable):
        return None
    return next((value for value in values if isinstance(value, torch.Tensor)), None)


def replace_tensor(output: Any, given: torch.Tensor, changed: torch.Tensor) -> Any:
    """Return a module's output (a tensor or tuple) with one tensor replaced.

    Raise ModelError for an output of another type.
    """
    if output is given:
        return changed
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        return tuple(changed if each is given else each for each in output)
    raise ModelError(
        f"an output of type {type(output).__name__} cannot be changed: choose another layer"
    )


def hint_of_nearest(name: str, names: Iterable[str]) -> str:
    """Return the end of a sentence with the nearest names, or an empty text."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.3)
    return f"; the nearest are {', '.join(near)}" if near else ""


def _numbered(model: torch.nn.Module, number: str) -> tuple[str, torch.nn.Module]:
    layers = decoder_layers(model)
    count = len(layers)
    if not -count <= int(number) < count:
        raise ToolError(
            f"there is no layer {number}: this model has {count} layers, from 0 to {count - 1}, "
            f"or -{count} to -1 from the last"
        )
    return layers[int(number)]


def _aliased(model: torch.nn.Module, number: str, hook: str) -> tuple[str, torch.nn.Module]:
    name, layer = _numbered(model, number)
    if hook == "hook_resid_post":
        return name, layer
    if hook in ("hook_attn_out", "attn"):
        wanted, normalised = list(_ATTENTION), "post_attention_layernorm"
    elif hook in ("hook_mlp_out", "mlp"):
        wanted, normalised = list(_MLP), _NORMALISED
    else:
        known = ", ".join(f"blocks.{number}.{each}" for each in _HOOKS)
        raise ToolError(f"there is no layer 'blocks.{number}.{hook}'; there are {known}")
    children = dict(layer.named_children())
    if hook.startswith("hook_") and _NORMALISED in children:
        wanted = [normalised]
    for child in wanted:
        if child in children:
            return f"{name}.{child}", children[child]
    raise ToolError(
        f"{name} has no module for blocks.{number}.{hook}; it has {', '.join(children)}"
    )


def _layers_in_config(model: Any) -> int | None:
    config = getattr(model, "config", None)
    if config is None:
        return None
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    count: int | None = getattr(text, "num_hidden_layers", None)
    return count
