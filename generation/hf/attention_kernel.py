"""The kernel of a model's attention, which is a private field of its config in transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedConfig


def attention_kernel(model: Any) -> str:
    """Return the name of the kernel in use, such as `sdpa` or `eager`."""
    return str(model.config._attn_implementation)


def kernels_of_modules(model: Any) -> dict[str, str]:
    """Return the kernels by the names of all modules that have a config."""
    return {
        name: str(module.config._attn_implementation)
        for name, module in model.named_modules()
        if hasattr(getattr(module, "config", None), "_attn_implementation")
    }


def choose_implementations(config: Any, kernel: str | None) -> None:
    """Set the kernel of a config and of all configs within it; with None, transformers chooses.

    What else its file chose for the loader is removed: the implementation of experts and the
    modules that are fused.
    """
    config._attn_implementation = kernel
    if hasattr(type(config), "_experts_implementation"):
        config._experts_implementation = None
    vars(config).pop("fusion_config", None)
    for value in list(vars(config).values()):
        if isinstance(value, PreTrainedConfig):
            choose_implementations(value, kernel)


ALWAYS_THERE = frozenset({"eager", "sdpa"})
"""The kernels that every model of transformers can use without another package."""


@contextmanager
def using_attention(model: Any, kernel: str) -> Iterator[None]:
    """Use a kernel within this context, in every module, and the earlier ones after it.

    A kernel that needs another package changes nothing.
    """
    configs = {id(module.config): module.config for module in _configured(model)}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values() if kernel in ALWAYS_THERE else ():
            config._attn_implementation = kernel
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


def _configured(model: Any) -> Iterator[Any]:
    for module in model.modules():
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            yield module
