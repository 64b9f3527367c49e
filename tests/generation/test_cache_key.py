"""Everything that changes the results of a model is part of the cache key."""

import functools
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
from tokentape.store import DatabaseStore


def steer(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
    moved = output[0] if isinstance(output, tuple) else output
    return (moved + 3.0, *output[1:]) if isinstance(output, tuple) else moved + 3.0


def test_a_hook_is_part_of_the_cache_key(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate(PROMPT, **GREEDY)
    handle = lm.model.model.layers[0].register_forward_hook(steer)
    steered = generator.generate(PROMPT, **GREEDY)

    assert steered["cache"].reason == f"key_changed:hooks of {__name__}.steer"
    assert steered["cache"].key_field == "hooks"
    assert steered["generated_tokens"] == cold(lm)
    handle.remove()
    back = generator.generate(PROMPT, **GREEDY)
    assert (back["cache"].decision, back["cache"].source) == ("hit", "memory")
    assert back["generated_tokens"] == cold(lm)


class Scaler:
    def __call__(self, *args: Any) -> None:
        pass


def test_the_reason_names_the_functions_of_added_or_removed_hooks(lm: tt.LoadedModel) -> None:
    layer = lm.model.model.layers[0]
    layer.register_forward_hook(steer)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate(PROMPT, **GREEDY)
    handle = layer.register_forward_hook(functools.partial(Scaler(), 1))
    added = generator.generate([*PROMPT, 7], **GREEDY)
    handle.remove()

    def first(*_: Any) -> None: ...
    def second(*_: Any) -> None: ...

    hooks: list[Callable[..., Any]] = [lambda *_: None, first, second, Scaler().__call__]
    for each in hooks:
        layer.register_forward_pre_hook(each)
    many = generator.generate([*PROMPT, 7, 7], max_new_tokens=1, do_sample=False)

    assert added["cache"].reason == f"key_changed:hooks of {__name__}.Scaler"
    assert many["cache"].reason.startswith("key_changed:hooks of ")
    assert many["cache"].reason.endswith(" and 1 more")


def test_tools_that_look_into_the_model_leave_the_cache_valid(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def look_inside() -> dict[str, int]:
        """Look at hidden states in several ways."""
        ids = torch.tensor([PROMPT])
        seen: list[Any] = []
        layers = lm.model.model.layers
        handles = [each.register_forward_hook(lambda m, i, o: seen.append(o)) for each in layers]
        with torch.no_grad():
            states = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
        for each in handles:
            each.remove()
        return {"states": len(states), "seen": len(seen)}

    own = tt.ToolInterface([look_inside])
    calls = [
        tt.ToolCall(name="get_logit_lens", arguments={"layers": [0]}),
        tt.ToolCall(name="get_attention_patterns", arguments={"layer": 0}),
        tt.ToolCall(
            name="get_activation_statistics", arguments={"layer_name": "0", "recompute": True}
        ),
    ]
    for tools, made in (
        (own, [tt.ToolCall(name="look_inside", arguments={})]),
        (tt.default_tools(lm), calls),
    ):
        run = tt.Investigation(lm, store=store, name="t", system_prompt="Hi.", tools=tools)
        run.chat("One.", max_new_tokens=2)
        with_tools = run.chat("Two.", tool_calls=made, max_new_tokens=2)
        after = run.chat("Three.", max_new_tokens=2)
        run.finish()

        assert [each.error for each in with_tools.tool_results] == [None] * len(made)
        assert [with_tools.cache.decision, after.cache.decision] == ["hit", "hit"]


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

    name = test_a_hook_on_every_module_is_part_of_the_cache_key.__qualname__
    assert again["cache"].reason == f"key_changed:hooks of {__name__}.{name}.<locals>.<lambda>"


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
