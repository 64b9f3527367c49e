"""Everything that changes the results of a model is part of the cache key."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    PreTrainedTokenizerFast,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

import tokentape as tt
from tests.generation.cold_runs import GREEDY, PROMPT, cold
from tokentape.generation.fingerprints import weights_version


def steer(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
    moved = output[0] if isinstance(output, tuple) else output
    return (moved + 3.0, *output[1:]) if isinstance(output, tuple) else moved + 3.0


def test_a_hook_is_part_of_the_cache_key(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate(PROMPT, **GREEDY)
    handle = lm.model.model.layers[0].register_forward_hook(steer)
    steered = generator.generate(PROMPT, **GREEDY)

    assert steered["cache"].reason == "key_changed:hooks"
    assert steered["generated_tokens"] == cold(lm)
    handle.remove()
    back = generator.generate(PROMPT, **GREEDY)
    assert (back["cache"].decision, back["cache"].source) == ("hit", "memory")
    assert back["generated_tokens"] == cold(lm)


def test_a_changed_buffer_is_part_of_the_cache_key(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate(PROMPT, **GREEDY)
    lm.model.model.rotary_emb.inv_freq.mul_(0.5)
    again = generator.generate(PROMPT, **GREEDY)

    assert again["cache"].reason == "key_changed:weights"
    assert again["generated_tokens"] == cold(lm)


def test_autocast_is_part_of_the_cache_key(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        generator.generate(PROMPT, **GREEDY)

    assert generator.generate(PROMPT, **GREEDY)["cache"].reason == "key_changed:autocast"


def test_a_callback_that_changes_the_weights_invalidates_the_cache(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)

    def change(token_id: int, logits: torch.Tensor) -> None:
        with torch.no_grad():
            lm.model.model.layers[0].self_attn.v_proj.weight.mul_(1.2)

    generator.generate(PROMPT, callback=change, **GREEDY)
    again = generator.generate(PROMPT, **GREEDY)

    assert again["cache"].reason == "cold"
    assert again["generated_tokens"] == cold(lm)


def test_new_weights_at_a_reused_address_are_noticed(lm: tt.LoadedModel) -> None:
    projection = lm.model.model.layers[0].self_attn.v_proj
    seen = set()
    for _ in range(60):
        projection.weight = torch.nn.Parameter(projection.weight.detach() * 1.01)
        seen.add(weights_version(lm.model))

    assert len(seen) == 60


def change_scale(lm: tt.LoadedModel) -> None:
    lm.model.model.layers[0].self_attn.scaling *= 3


def change_config(lm: tt.LoadedModel) -> None:
    lm.model.config.rms_norm_eps = 1.0


@pytest.mark.parametrize(
    ("change", "field"), [(change_scale, "attributes"), (change_config, "config")]
)
def test_numbers_among_module_attributes_are_part_of_the_cache_key(
    change: Callable[[tt.LoadedModel], None], field: str, lm: tt.LoadedModel
) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate(PROMPT, **GREEDY)
    change(lm)
    again = generator.generate([*PROMPT, 7], **GREEDY)

    assert again["cache"].reason == f"key_changed:{field}"


def test_a_hook_on_every_module_is_part_of_the_cache_key(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate(PROMPT, **GREEDY)
    projection = lm.model.model.layers[0].self_attn.v_proj
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: output * 2 if module is projection else None
    )
    try:
        again = generator.generate([*PROMPT, 7], **GREEDY)
    finally:
        handle.remove()

    assert again["cache"].reason == "key_changed:hooks"


def test_states_that_a_model_keeps_in_its_modules_are_not_reused(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    config = RecurrentGemmaConfig(
        vocab_size=272, hidden_size=64, intermediate_size=96, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, initializer_range=0.2,
        lru_width=64, attention_window_size=16,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = RecurrentGemmaForCausalLM(config).eval()
    generator = tt.ManualGenerator(model, tokenizer)
    generator.generate(PROMPT, **GREEDY)
    again = generator.generate([*PROMPT, 7], **GREEDY)

    assert again["cache"].decision == "bypass"
    assert again["cache"].reason.startswith("inexact:")
