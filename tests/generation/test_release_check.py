"""A release of transformers that generates otherwise than is known is refused in one line."""

import re
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    GenerationMixin,
    JambaConfig,
    JambaForCausalLM,
    LlamaForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

import tokentape as tt
from benchmarks.tiny_models import FAMILIES
from tokentape.generation import hf
from tokentape.generation.hf import release_check
from tokentape.generation.hf.tiny_twin import tiny_twin
from tokentape.store import DatabaseStore

ONE_LINE = re.compile(
    r"transformers \d+\.\d+\.\S+: tokentape does not know how this release generates with "
    r"\w+ \([^\n]+\); known releases: 5\.\d+ to 5\.\d+; install one of them, or a newer tokentape"
)


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with no class of model checked."""
    monkeypatch.setattr(release_check, "_complaints", {})


def lose_cache(patch: pytest.MonkeyPatch) -> None:
    """Hand caches over in an unknown object, as `generate` of that release would understand."""
    prepare = GenerationMixin._prepare_cache_for_generation
    inputs = GenerationMixin.prepare_inputs_for_generation

    def prepared(self: Any, config: Any, arguments: dict[str, Any], *rest: Any) -> None:
        made: dict[str, Any] = {}
        prepare(self, config, made, *rest)
        arguments["states"] = SimpleNamespace(**made)

    def with_states(
        self: Any, input_ids: Any, attention_mask: Any = None, states: Any = None, **given: Any
    ) -> Any:
        made = {} if states is None else vars(states)
        return inputs(self, input_ids, attention_mask=attention_mask, **{**made, **given})

    patch.setattr(GenerationMixin, "_prepare_cache_for_generation", prepared)
    patch.setattr(GenerationMixin, "prepare_inputs_for_generation", with_states)


def rename_in_preparation(patch: pytest.MonkeyPatch) -> None:
    """Prepare the cache under a name that no forward reads; `generate` then makes another."""
    prepare = GenerationMixin._prepare_cache_for_generation

    def prepared(self: Any, config: Any, arguments: dict[str, Any], *rest: Any) -> None:
        made: dict[str, Any] = {}
        prepare(self, config, made, *rest)
        arguments["states"] = next(iter(made.values()))

    patch.setattr(GenerationMixin, "_prepare_cache_for_generation", prepared)


def remove_positions(patch: pytest.MonkeyPatch) -> None:
    """Prepare positions in a method of another name."""
    method = "_prepare_position_ids_for_generation"
    prepare = getattr(GenerationMixin, method)
    generate = GenerationMixin.generate

    def with_positions(self: Any, *args: Any, **given: Any) -> Any:
        vars(self)[method] = prepare.__get__(self)
        try:
            return generate(self, *args, **given)
        finally:
            del vars(self)[method]

    patch.setattr(GenerationMixin, "generate", with_positions)
    patch.delattr(GenerationMixin, method)


def shift_positions(patch: pytest.MonkeyPatch) -> None:
    """Count positions otherwise than `generate` does."""
    prepare = GenerationMixin._prepare_position_ids_for_generation
    generate = GenerationMixin.generate

    def with_positions(self: Any, *args: Any, **given: Any) -> Any:
        vars(self)["_prepare_position_ids_for_generation"] = prepare.__get__(self)
        try:
            return generate(self, *args, **given)
        finally:
            del vars(self)["_prepare_position_ids_for_generation"]

    def shifted(self: Any, *args: Any) -> Any:
        positions = prepare(self, *args)
        return positions + torch.arange(positions.shape[-1]) * 3

    patch.setattr(GenerationMixin, "generate", with_positions)
    patch.setattr(GenerationMixin, "_prepare_position_ids_for_generation", shifted)


@pytest.mark.parametrize(
    "change", [lose_cache, rename_in_preparation, remove_positions, shift_positions]
)
def test_an_unknown_release_is_refused_before_anything_is_recorded(
    change: Callable[[pytest.MonkeyPatch], None],
    lm: tt.LoadedModel,
    store: DatabaseStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tt.Investigation(lm, store=store, name="before", system_prompt="Be kind.") as run:
        run.chat("Hi", max_new_tokens=2)
    recording = store.recording(run.run_id)
    release_check._complaints.clear()
    change(monkeypatch)

    with pytest.raises(tt.ModelError) as refusal:
        tt.Investigation(lm, store=store, name="after", system_prompt="Be kind.")
    with pytest.raises(tt.ModelError, match="does not know how this release"):
        tt.ManualGenerator(lm.model, lm.tokenizer)
    with pytest.raises(tt.ModelError, match="does not know how this release"):
        tt.verify(recording, lm)
    assert ONE_LINE.fullmatch(str(refusal.value))
    assert [each.name for each in store.summaries()] == ["before"]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_understood_without_drawing_random_numbers(
    family: str, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    model = make_lm(family).model
    before = torch.get_rng_state()
    hf.check_release(model)

    assert release_check._complaints == {type(model): ""}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_class_is_checked_once(lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(
        release_check, "tiny_twin", lambda model: made.append(tiny_twin(model)) or made[-1]
    )
    threads = [threading.Thread(target=hf.check_release, args=(lm.model,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 1


class OwnLlama(LlamaForCausalLM):
    """A class from outside of transformers: no other instance is made of it."""

    def __init__(self, config: Any, secret: str) -> None:
        super().__init__(config)
        self.secret = secret


def test_a_class_from_outside_is_checked_with_the_model_itself(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OwnLlama(lm.model.config, "x").eval()
    seen: list[Any] = []
    model.model.register_forward_hook(lambda *_: seen.append(1))
    assert tiny_twin(model) is None
    hf.check_release(model)
    assert seen == []

    release_check._complaints.clear()
    rename_in_preparation(monkeypatch)
    with pytest.raises(tt.ModelError, match="generates with OwnLlama"):
        hf.check_release(model)


def test_a_model_that_generate_does_not_run_on_is_not_refused(lm: tt.LoadedModel) -> None:
    class Broken(OwnLlama):
        def forward(self, *args: Any, **given: Any) -> Any:
            raise RuntimeError("out of order")

    hf.check_release(Broken(lm.model.config, "x").eval())


def test_a_model_whose_own_config_asks_for_beams_is_understood(lm: tt.LoadedModel) -> None:
    model = OwnLlama(lm.model.config, "x").eval()
    model.generation_config.penalty_alpha = 0.6
    model.generation_config.top_k = 4

    hf.check_release(model)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (
            RecurrentGemmaForCausalLM,
            RecurrentGemmaConfig(
                vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=5,
                num_attention_heads=4, num_key_value_heads=2, head_dim=16, lru_width=64,
            ),
        ),
        (
            JambaForCausalLM,
            JambaConfig(
                vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=8,
                num_attention_heads=4, num_key_value_heads=2, attn_layer_period=4,
                attn_layer_offset=2, use_mamba_kernels=False,
            ),
        ),
    ],
)  # fmt: skip
def test_a_class_whose_config_names_its_layers_otherwise_is_checked_with_each_kind(
    kind: Any, config: Any
) -> None:
    """In the check of the first layers alone, nothing would count the tokens of the cache."""
    with torch.random.fork_rng(devices=[]):
        model = kind(config).eval()
    twin = tiny_twin(model)

    assert twin is not None
    assert twin.config.num_hidden_layers < config.num_hidden_layers
    assert set(twin.config.layers_block_type) == set(config.layers_block_type)
    hf.check_release(model)


def test_a_model_that_keeps_no_cache_is_named_as_a_possible_reason() -> None:
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=64, n_embd=32, n_layer=2, n_head=4))

    with pytest.raises(tt.ModelError, match="the model may keep none") as refusal:
        hf.check_release(model.eval())
    assert ONE_LINE.fullmatch(str(refusal.value))


def test_a_cache_whose_first_layer_stays_empty_counts_its_tokens() -> None:
    """As in models that keep the states of their first layers in modules."""
    cache = DynamicCache()
    assert hf.held_tokens(cache) == 0
    states = torch.zeros(1, 2, 7, 8)
    cache.update(states, states, 1)

    assert hf.held_tokens(cache) == 7
