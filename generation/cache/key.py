"""What must be equal, beside the ids, for a KV cache to be valid."""

import hashlib
import json
from typing import Any

import torch
from torch.nn.modules import module as torch_module
from transformers import GenerationConfig

from tokentape.generation.fingerprints.weights_version import weights_version
from tokentape.generation.hooks.forward_positions import foreign_hooks

# Where a model came from is not what it is.
_UNKEYED = ("_name_or_path", "transformers_version")


def cache_key(model: Any, config: GenerationConfig | None = None) -> dict[str, str]:
    """What must be equal, beside the ids, for a cache of this model to be valid.

    All but `weights` and `hooks` means the same in another process.
    """
    return {
        "weights": weights_version(model),
        "dtype": str(model.dtype),
        "autocast": autocast_of(model),
        "device": str(model.device),
        "attention_kernel": str(model.config._attn_implementation),
        "cache": str(config.cache_implementation if config is not None else None),
        "config": _config(model),
        "attributes": _attributes(model),
        "hooks": _hooks(model),
        "adapters": _adapters(model),
    }


def autocast_of(model: Any) -> str:
    """The type that torch computes in instead of the model's own, or `off`."""
    kind = model.device.type
    return str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "off"


def _config(model: Any) -> str:
    described = {
        name: value for name, value in model.config.to_dict().items() if name not in _UNKEYED
    }
    return _sum(json.dumps(described, sort_keys=True, default=str))


def _attributes(model: Any) -> str:
    """Of the numbers that modules keep beside their tensors, such as the scale of attention."""
    numbers = [
        (name, attribute, value)
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if type(value) in (int, float, bool) and not attribute.startswith("_")
    ]
    return _sum(repr(numbers))


def _hooks(model: Any) -> str:
    """Whoever hooks a module can change what comes out of it.

    What our own hooks change is told by the marks of the ids (`cache.id_salt`).
    """
    hooks = [
        (name, number) for name, module in model.named_modules() for number in foreign_hooks(module)
    ]
    everywhere = (
        *torch_module._global_forward_hooks,
        *torch_module._global_forward_pre_hooks,
    )
    return str(hash((*hooks, *everywhere))) if hooks or everywhere else "none"


def _adapters(model: Any) -> str:
    """The state of every adapter layer of peft, which keeps it on the layers."""
    states = [
        (
            name,
            str(module.active_adapter),
            module.disable_adapters,
            str(module.merged_adapters),
            str(getattr(module, "scaling", "")),
        )
        for name, module in model.named_modules()
        if hasattr(module, "active_adapter") and hasattr(module, "merged_adapters")
    ]
    return _sum(str(states)) if states else "none"


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
