"""The modules of a model, by the names that people have for them."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tokentape.generation.errors import ToolError

_ATTENTION = ("self_attn", "attn", "linear_attn", "attention", "mixer")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe")
# Gemma and OLMo 2 normalise what goes into the residual stream once more. There TransformerLens
# means what comes out of that.
_NORMALISED = "post_feedforward_layernorm"
_ALIAS = re.compile(r"blocks\.(-?\d{1,9})\.(\w+)")
_HOOKS = ("hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn", "mlp")
_NUMBER = re.compile(r"-?\d{1,9}")


def find_layer(model: torch.nn.Module, name: str | int) -> tuple[str, torch.nn.Module]:
    """The full name of a module, and the module.

    `name` is a full name (`model.layers.3.mlp`), the number of a decoder layer (3, "3", or "-1" for
    the last), or what TransformerLens calls it: `blocks.3.hook_resid_post`, `.hook_attn_out`,
    `.hook_mlp_out`, `.attn`, `.mlp`. Raises ToolError, naming the nearest, where there is none.
    """
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise ToolError(f"a layer is named by a text or a number, not by {name!r}")
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
    """The layers that the residual stream runs through, in order, by their full names.

    Raises ToolError for a model that is not built of such.
    """
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module)
    ]
    if not stacks:
        raise ToolError(f"{type(model).__name__} is not built of layers that could be numbered")
    count = _layers_in_config(model)
    # The outermost: within a layer there may be lists, too, such as that of the experts.
    name, stack = min(stacks, key=lambda each: (len(each[1]) != count, each[0].count(".")))
    return [(f"{name}.{index}", layer) for index, layer in enumerate(stack)]


def output_of(output: Any) -> torch.Tensor:
    """The tensor among what a module returned: attention returns its weights as well.

    Raises ToolError where there is none.
    """
    tensor = tensor_in(output)
    if tensor is None:
        raise ToolError(f"this layer gives no tensor, but {type(output).__name__}")
    return tensor


def tensor_in(output: Any) -> torch.Tensor | None:
    """As `output_of`, with None where there is none."""
    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    if not isinstance(values, Iterable):
        return None
    return next((value for value in values if isinstance(value, torch.Tensor)), None)


def hint_of_nearest(name: str, names: Iterable[str]) -> str:
    """The end of a sentence that says which names are nearest; nothing where none is near."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.3)
    return f"; the nearest are {', '.join(near)}" if near else ""


def _numbered(model: torch.nn.Module, number: str) -> tuple[str, torch.nn.Module]:
    layers = decoder_layers(model)
    count = len(layers)
    if not -count <= int(number) < count:
        raise ToolError(
            f"there is no layer {number}: this model has {count}, from 0 to {count - 1}, "
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
    parts = dict(layer.named_children())
    if hook.startswith("hook_") and _NORMALISED in parts:
        wanted = [normalised]
    for part in wanted:
        if part in parts:
            return f"{name}.{part}", parts[part]
    raise ToolError(
        f"{name} has nothing that would be blocks.{number}.{hook}; it has {', '.join(parts)}"
    )


def _layers_in_config(model: Any) -> int | None:
    config = getattr(model, "config", None)
    if config is None:
        return None
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    count: int | None = getattr(text, "num_hidden_layers", None)
    return count
