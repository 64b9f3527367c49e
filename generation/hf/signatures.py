"""What a function of the installed release of transformers accepts."""

import inspect
from collections.abc import Callable
from typing import Any


def unwrapped(model: Any) -> Any:
    """Return the model that PEFT or `torch.compile` wraps, or the model itself."""
    model = getattr(model, "_orig_mod", model)
    base = getattr(model, "get_base_model", None)
    return base() if callable(base) else model


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Return whether the function has a parameter of this name."""
    return name in inspect.signature(function).parameters


def accepted(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return those of the arguments that the function has a parameter for."""
    return {name: value for name, value in arguments.items() if accepts(function, name)}
