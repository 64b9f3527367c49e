"""The sizes of a model's weights and caches, read from its config without its weights."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tokentape.generation.context_length import context_tokens
from tokentape.generation.errors import ModelError
from tokentape.generation.hf import KvLayer
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.hf.kv_layout import kv_layers_of
from tokentape.generation.hf.layer_cast import compute_in, weights_dtype
from tokentape.generation.models.forward_memory import ForwardShape, forward_shape
from tokentape.generation.models.loading import local_source
from tokentape.generation.models.model_config import read_config
from tokentape.generation.models.quiet import quiet_loading
from tokentape.recorder.paths import expand_path

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """The sizes of a model, in bytes and tokens."""

    name: str
    family: str
    """The `model_type` of its config."""
    parameters: int
    """Tied parameters count once."""
    dtype: str
    """That of the weights."""
    weights_bytes: int
    """Bytes of all parameters."""
    forward: ForwardShape
    layers: tuple[KvLayer, ...]
    context_tokens: int | None
    """The longest sequence that the config allows; None without a limit."""
    attention: str
    """The kernel of attention."""


def meta_model(
    name: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    compute_dtype: str | None = None,
    attn_implementation: str | None = None,
) -> Any:
    """Return a model on torch's meta device, which has shapes and no numbers.

    `name` is one that `load_model` takes, or a `config.json`; only the config is read.
    A model of the hub must be in the local cache. Raise ModelError in one line if there is no
    config, or no model can be made from it. Without an `attn_implementation`, it is SDPA where the
    model has it.
    """
    text = os.fspath(name)
    if dtype not in DTYPES:
        raise ModelError(f"there is no dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    config_file = text.endswith(".json")
    if config_file and not expand_path(text).is_file():
        raise ModelError(f"there is no config {text}")
    source: dict[str, Any] = (
        {"pretrained_model_name_or_path": str(expand_path(text)), "trust_remote_code": False}
        if config_file
        else local_source(text)
    )
    try:
        with quiet_loading():
            config = read_config(source, attn_implementation)
            chosen = config.dtype if dtype == "auto" else getattr(torch, dtype)
            with torch.device("meta"):
                model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                    config, attn_implementation=attn_implementation, trust_remote_code=False
                )
    except Exception as error:  # each format has errors of its own
        line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"no config of the model {text!r} on this machine ({line})") from error
    model = model.eval().to(chosen or torch.float32)
    if compute_dtype:
        compute_in(model, compute_dtype)
    return model


def model_sizes(model: Any, name: str) -> ModelSizes:
    """Return the sizes of a model, whose tensors may be on torch's meta device."""
    config = model.config.get_text_config(decoder=True)
    parameters = list(model.parameters())
    return ModelSizes(
        name=name,
        family=str(config.model_type),
        parameters=sum(each.numel() for each in parameters),
        dtype=str(weights_dtype(model)).removeprefix("torch."),
        weights_bytes=sum(each.numel() * each.element_size() for each in parameters),
        forward=forward_shape(model),
        layers=kv_layers_of(model),
        context_tokens=context_tokens(model),
        attention=attention_kernel(model),
    )
