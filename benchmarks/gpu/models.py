"""Models with random weights in the shapes of released ones; nothing is downloaded."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

import tokentape as tt
from benchmarks.gpu.bench import Bench
from benchmarks.tiny_models import byte_tokenizer, tiny_model

_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.05}
_SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "small": (
        LlamaConfig,
        {
            "vocab_size": 49_152,
            "hidden_size": 576,
            "intermediate_size": 1_536,
            "num_hidden_layers": 8,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
    ),
    "1.5B": (
        Qwen2Config,
        {
            "vocab_size": 151_936,
            "hidden_size": 1_536,
            "intermediate_size": 8_960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
    ),
    "8B": (
        LlamaConfig,
        {
            "vocab_size": 128_256,
            "hidden_size": 4_096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": False,
        },
    ),
}
_TINY = {
    "vocab_size": 600,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def shape_config(shape: str, *, tiny: bool) -> Any:
    """Return the config of a shape: `small`, `1.5B` or `8B`; with `tiny`, a small one like it."""
    kind, sizes = _SHAPES[shape]
    positions = {"max_position_embeddings": 16_384}
    return kind(**_IDS, **positions, **sizes | (_TINY if tiny else {}))


def shaped_model(bench: Bench, shape: str, dtype: torch.dtype, *, seed: int = 0) -> tt.LoadedModel:
    """Return a model of a shape with random weights, made on the device, and its tokenizer.

    A second process makes the same weights from the same seed on the same device.
    """
    config = shape_config(shape, tiny=bench.tiny)
    # Without devices, all of CUDA's would be initialised, also for a model on the CPU.
    devices = [] if bench.cuda is None else [bench.cuda]
    with torch.random.fork_rng(devices=devices), torch.device(bench.device):
        torch.manual_seed(seed)
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(config, dtype=dtype)
    return tt.LoadedModel(
        model.eval(), byte_tokenizer(config.vocab_size), f"random-{'tiny-' * bench.tiny}{shape}"
    )


def family_model(bench: Bench, family: str, dtype: torch.dtype) -> tt.LoadedModel:
    """Return the tiny model of a family on the device."""
    lm = tiny_model(family, byte_tokenizer(), dtype=dtype)
    lm.model.to(bench.device)
    return lm
