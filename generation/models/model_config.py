"""The config of a model, without the choices that its file makes for the loader.

In addition to the model's shape, a `config.json` may name an attention kernel, a kernel of the hub
(which transformers fetches and runs), an implementation of experts and fused modules. transformers
prefers some of these to the arguments of `from_pretrained`.
"""

import os
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.attention_kernel import (
    ALWAYS_THERE,
    attention_kernel,
    choose_implementations,
    kernels_of_modules,
)
from tokentape.generation.models.adapters import base_of

_FLASH = "flash_attention_"


def read_config(source: Mapping[str, Any], attn_implementation: str | None) -> Any:
    """Return the config of a model, with this attention kernel in place of the file's.

    `source` has the arguments of `from_pretrained`; for a PEFT adapter without a config, the config
    is that of its base model. With None, transformers chooses the kernel. No kernel is fetched.
    """
    config = AutoConfig.from_pretrained(**_config_source(source))
    choose_implementations(config, attn_implementation)
    return config


def check_attention(model: Any, attn_implementation: str) -> None:
    """Raise ModelError if a loaded model computes attention with another kernel than this.

    A part of a model may fall back to `eager`. For flash attention, transformers may take a kernel
    of the hub that computes it.
    """
    found = kernels_of_modules(model)
    accepted = {attn_implementation, "eager"}
    if attn_implementation.startswith(_FLASH):
        accepted.add(attention_kernel(model))
    other = {name: kernel for name, kernel in found.items() if kernel not in accepted}
    top = attention_kernel(model)
    if attn_implementation in ALWAYS_THERE and top != attn_implementation:
        other = {"": top, **other}
    if other:
        name, kernel = next(iter(other.items()))
        raise ModelError(
            f"{name or 'the model'} computes attention with {kernel!r}, not with "
            f"{attn_implementation!r}: load it with attn_implementation={kernel!r}"
        )


def is_hub_kernel(attn_implementation: str) -> bool:
    """Return whether transformers fetches this attention kernel from the hub, and runs its code.

    Such a name is `owner/name`, with or without `@revision` and `:function`, and may follow `|`.
    """
    return "/" in attn_implementation


def _config_source(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that read the config, as `AutoModel` finds it."""
    base = base_of(source)
    folder = str(source["pretrained_model_name_or_path"])
    if base is None or os.path.exists(os.path.join(folder, "config.json")):
        return dict(source)
    return {**source, "pretrained_model_name_or_path": base}
