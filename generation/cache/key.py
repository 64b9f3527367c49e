"""What must be equal, beside the ids, for a KV cache to be valid."""

from typing import Any

import torch
from transformers import GenerationConfig


def cache_key(model: Any, config: GenerationConfig | None = None) -> dict[str, str]:
    """What must be equal, beside the ids, for a cache of this model to be valid."""
    return {
        "weights": weights_version(model),
        "dtype": str(model.dtype),
        "autocast": autocast_of(model),
        "device": str(model.device),
        "attention_kernel": str(model.config._attn_implementation),
        "cache": str(config.cache_implementation if config is not None else None),
        "hooks": _hooks(model),
        "adapters": _adapters(model),
    }


def autocast_of(model: Any) -> str:
    """The type that torch computes in instead of the model's own, or `off`."""
    kind = model.device.type
    return str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "off"


def weights_version(model: Any) -> str:
    """Changes when a parameter or a buffer is replaced or written to in place.

    torch counts the writes to a tensor; those that go through `.data` it cannot see.
    """
    versions = (
        (tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version)
        for tensor in (*model.parameters(), *model.buffers())
    )
    return str(hash(tuple(versions)))


def _hooks(model: Any) -> str:
    """Whoever hooks a module can change what comes out of it: steering, for one."""
    # torch numbers its hooks and uses no number twice; an address comes back.
    hooks = [
        (name, number)
        for name, module in model.named_modules()
        for number in (*module._forward_hooks, *module._forward_pre_hooks)
    ]
    return str(hash(tuple(hooks))) if hooks else "none"


def _adapters(model: Any) -> str:
    """The state of every adapter layer of peft, which keeps it on the layers."""
    states = [
        (name, str(module.active_adapter), module.disable_adapters, str(module.merged_adapters))
        for name, module in model.named_modules()
        if hasattr(module, "active_adapter") and hasattr(module, "merged_adapters")
    ]
    return str(tuple(states)) if states else "none"
