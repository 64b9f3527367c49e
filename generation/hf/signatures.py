"""What a function of the installed release of transformers accepts."""

import inspect
from collections.abc import Callable
from typing import Any


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Return whether the function has a parameter of this name."""
    return name in inspect.signature(function).parameters


def accepted(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return those of the arguments that the function has a parameter for."""
    return {name: value for name, value in arguments.items() if accepts(function, name)}
