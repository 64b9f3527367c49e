"""Tiny random models of each kind of cache, and a byte-level tokenizer for them."""

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

import tokentape as tt

# Adds a default system prompt, as the demo model's template does.
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 272
WINDOW = 16

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    # Wide enough for peaked distributions: flat logits would hide mistakes.
    "initializer_range": 0.25,
}


def byte_tokenizer(vocabulary: int = 0) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each byte, and a ChatML template.

    For a model with a larger `vocabulary`, tokens follow that no text is encoded as.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = (*SPECIAL, *letters)
    more = (f"w{index}" for index in range(len(known), vocabulary))
    vocab = {token: index for index, token in enumerate((*known, *more))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL),
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def _config(kind: Any, **settings: Any) -> Any:
    ids = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return kind(**ids | settings)


def _gpt2(**sizes: Any) -> Any:
    settings: dict[str, Any] = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 2048}
    return GPT2LMHeadModel(_config(GPT2Config, initializer_range=0.25, **settings | sizes))


def _gemma3(**sizes: Any) -> Any:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    settings = {"head_dim": 16, "sliding_window": WINDOW, "layer_types": kinds}
    return Gemma3ForCausalLM(_config(Gemma3TextConfig, **_SIZES | settings | sizes))


def _mamba(**sizes: Any) -> Any:
    settings = {"hidden_size": 64, "num_hidden_layers": 3, "state_size": 8}
    return MambaForCausalLM(_config(MambaConfig, initializer_range=0.25, **settings | sizes))


def _qwen3_next(**sizes: Any) -> Any:
    settings = {
        "head_dim": 16,
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    }
    return Qwen3NextForCausalLM(_config(Qwen3NextConfig, **_SIZES | settings | sizes))


FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": lambda **sizes: LlamaForCausalLM(_config(LlamaConfig, **_SIZES | sizes)),
    "qwen3": lambda **sizes: Qwen3ForCausalLM(
        _config(Qwen3Config, **_SIZES | {"head_dim": 16} | sizes)
    ),
    "gpt2": _gpt2,
    "gemma3": _gemma3,
    "mistral": lambda **sizes: MistralForCausalLM(
        _config(MistralConfig, **_SIZES | {"sliding_window": WINDOW} | sizes)
    ),
    "mamba": _mamba,
    "qwen3-next": _qwen3_next,
}
"""Full attention three times, sliding windows twice, recurrent, and a hybrid of two."""


def tiny_model(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **sizes: Any,
) -> tt.LoadedModel:
    """Return a random model of a family, the same for the same seed.

    `sizes` are fields of its config. The caller's random state is not touched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FAMILIES[family](**sizes)
    return tt.LoadedModel(model.eval().to(dtype), tokenizer, f"tiny-{family}")


def random_ids(count: int, seed: int) -> list[int]:
    """Return random ids that are not special tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(3, 259, (count,), generator=generator).tolist()
    return ids
