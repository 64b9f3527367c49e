"""The kernel of a model's attention, which is a private field of its config in transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def attention_kernel(model: Any) -> str:
    """Return the name of the kernel in use, such as `sdpa` or `eager`."""
    return str(model.config._attn_implementation)


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Use the eager kernel within this context, in every module, and the earlier ones after it."""
    configs = {id(module.config): module.config for module in _configured(model)}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = "eager"
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


def _configured(model: Any) -> Iterator[Any]:
    for module in model.modules():
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            yield module
