"""What must be equal, beside the ids, for a KV cache to be valid."""

from typing import Any

import torch


def cache_key(model: Any) -> dict[str, str]:
    """What must be equal, beside the ids, for a cache of this model to be valid."""
    kind = model.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else "off"
    return {
        "weights": weights_version(model),
        "dtype": str(model.dtype),
        "autocast": str(autocast),
        "device": str(model.device),
        "attention_kernel": str(model.config._attn_implementation),
        "hooks": _hooks(model),
        "adapters": _adapters(model),
    }


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
    hooks = (
        (name, number)
        for name, module in model.named_modules()
        for number in (*module._forward_hooks, *module._forward_pre_hooks)
    )
    return str(hash(tuple(hooks)))


def _adapters(model: Any) -> str:
    """The state of every adapter layer of peft, which keeps it on the layers."""
    states = (
        (name, str(module.active_adapter), module.disable_adapters, str(module.merged_adapters))
        for name, module in model.named_modules()
        if hasattr(module, "active_adapter") and hasattr(module, "merged_adapters")
    )
    return str(hash(tuple(states)))
