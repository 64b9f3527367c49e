"""The adapters of PEFT that are active in a model: described, and switched as recorded."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

NO_ADAPTERS = "none"
DISABLED_ADAPTERS = "disabled"
"""The description of a model that has adapters, and none is active."""
_MERGED = " (merged)"


def active_adapters(model: Any) -> str:
    """Return the names of the active adapters of PEFT and a hash of their state, or `none`."""
    states = [
        (
            name,
            () if module.disable_adapters else _names(module.active_adapter),
            bool(module.disable_adapters),
            _names(module.merged_adapters),
            sorted((str(each), str(value)) for each, value in _scaling(module).items()),
        )
        for name, module in _adapter_layers(model)
    ]
    if not states:
        return NO_ADAPTERS
    active = {name for _, names, *_ in states for name in names}
    merged = {f"{name}{_MERGED}" for _, _, _, names, _ in states for name in names}
    named = ", ".join((*sorted(active), *sorted(merged)))
    digest = hashlib.sha256(str(states).encode()).hexdigest()[:16]
    return f"{named or DISABLED_ADAPTERS} {digest}"


def is_adapter_layer(module: Any) -> bool:
    """Return whether a module has adapters of PEFT, in use or not."""
    return hasattr(module, "active_adapter") and hasattr(module, "merged_adapters")


@contextmanager
def adapters_as_recorded(model: Any, recorded: str) -> Iterator[bool]:
    """Within this context, let the adapters be active that `active_adapters` described.

    Yield whether the model is then described so. The model needs all of them in memory: other
    weights, scalings or merged adapters cannot be restored from their names.
    """
    now = active_adapters(model)
    if now == recorded or NO_ADAPTERS in (now, recorded):
        yield now == recorded
        return
    layers = [layer for _, layer in _adapter_layers(model) if _can_be_switched(layer)]
    before = [
        (layer, layer.active_adapter, bool(layer.disable_adapters), _gradients(layer))
        for layer in layers
    ]
    try:
        for layer in layers:
            _switch(layer, recorded.rpartition(" ")[0])
        yield active_adapters(model) == recorded
    finally:
        for layer, active, disabled, gradients in before:
            layer.set_adapter(active)
            layer.enable_adapters(not disabled)
            for parameter, needs in gradients:
                parameter.requires_grad_(needs)


def _switch(layer: Any, names: str) -> None:
    """Activate the named adapters that the layer has; none of them if they were disabled."""
    chosen = [each for each in names.split(", ") if not each.endswith(_MERGED)]
    disabled = names == DISABLED_ADAPTERS
    known = [each for each in chosen if each in _scaling(layer)]
    if known and not disabled:
        layer.set_adapter(known)
    layer.enable_adapters(not disabled)


def _can_be_switched(layer: Any) -> bool:
    return hasattr(layer, "set_adapter") and hasattr(layer, "enable_adapters")


def _gradients(layer: torch.nn.Module) -> list[tuple[torch.nn.Parameter, bool]]:
    return [(each, each.requires_grad) for each in layer.parameters()]


def _scaling(module: Any) -> Mapping[Any, Any]:
    scaling = getattr(module, "scaling", None)
    return scaling if isinstance(scaling, Mapping) else {}


def _adapter_layers(model: Any) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if is_adapter_layer(module):
            yield name, module


def _names(active: str | Iterable[str]) -> tuple[str, ...]:
    return (active,) if isinstance(active, str) else tuple(active)
