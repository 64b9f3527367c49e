"""Random models with weights in 16 bits, and the same weights cast whole."""

import copy
from typing import Any

import torch
import transformers

from benchmarks.tiny_models import FAMILIES, VOCABULARY, byte_tokenizer, tiny_model
from tokentape.generation import hf
from tokentape.generation.hf.layer_cast import compute_in

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.25,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
# Weights that are used without a call of their module: experts, states, convolutions, scales.
OTHER_FAMILIES: dict[str, dict[str, Any]] = {
    "RecurrentGemma": {"num_hidden_layers": 4, "head_dim": 16, "lru_width": 64},
    "Jamba": {
        "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "FalconH1": {
        "num_hidden_layers": 2, "head_dim": 16, "mamba_d_ssm": 64, "mamba_n_heads": 4,
        "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1,
    },
    "Mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "DeepseekV3": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "moe_intermediate_size": 32, "first_k_dense_replace": 1, "kv_lora_rank": 16,
        "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
        "num_key_value_heads": 4,
    },
    "Gemma2": {"head_dim": 16, "sliding_window": 16},
    "Olmo2": {"tie_word_embeddings": True},
    "Bloom": {"n_layer": 3, "n_head": 4},
    "OPT": {"word_embed_proj_dim": 32, "ffn_dim": 96},
}  # fmt: skip
MODELS = (*FAMILIES, *OTHER_FAMILIES)


def narrow_model(name: str, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Any:
    """Return a random model of a family with weights of 16 bits."""
    if name in FAMILIES:
        return tiny_model(name, byte_tokenizer(), dtype=dtype, seed=seed).model
    config = getattr(transformers, f"{name}Config")(**SIZES | OTHER_FAMILIES[name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, f"{name}ForCausalLM")(config).eval().to(dtype)


def pair(name: str, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> tuple[Any, Any]:
    """Return a model whose weights are cast as they are used, and one with them cast whole."""
    narrow = narrow_model(name, dtype, seed)
    whole = copy.deepcopy(narrow).float()
    compute_in(narrow, "float32")
    return narrow, whole


def logits_of(model: Any, ids: list[int], chunks: int | None, steps: int) -> list[torch.Tensor]:
    """Return the logits after a prefill and after single steps, and the tensors of the cache."""
    prompt = torch.tensor([ids])
    config = hf.effective_config(model)
    cache = hf.new_cache(model, config, total_tokens=len(ids) + steps)
    decoder = hf.Decoder(model, config, prompt[:, : len(ids) - steps], cache)
    seen = [decoder.prefill(chunks)[0]]
    for end in range(len(ids) - steps, len(ids)):
        seen.append(decoder.forward(prompt[:, : end + 1]))
    hf.compact(decoder.cache)
    states = [each for layer in decoder.cache.layers for each in hf.tensors_of(vars(layer))]
    return [*seen, *states]


def assert_equal_bits(given: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert [each.dtype for each in given] == [each.dtype for each in expected]
    assert all(torch.equal(one, other) for one, other in zip(given, expected, strict=True))
    assert expected[0].std() > 0
