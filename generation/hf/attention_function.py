"""The Python functions that transformers calls for an attention kernel and for its masks."""

from collections.abc import Callable
from typing import Any

from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def attention_functions(kernel: str) -> dict[str, Callable[..., Any]]:
    """Return the functions registered under a kernel's name: `attention`, and `mask` if it has one.

    `eager` attention is a function of the model's own module, so that none is registered for it.
    """
    found = {"attention": ALL_ATTENTION_FUNCTIONS.get(kernel), "mask": _masks().get(kernel)}
    return {name: function for name, function in found.items() if function is not None}


def _masks() -> Any:
    """Return the registered mask functions by kernel."""
    try:
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    except ImportError:
        return {}
    return ALL_MASK_ATTENTION_FUNCTIONS
