"""A probe determines how the cache of a model may be used."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import FalconH1Config, FalconH1ForCausalLM, GenerationConfig, cache_utils
from transformers.cache_utils import Cache

import tokentape as tt
from tokentape.generation import GenerationResult, hf
from tokentape.generation.cache import cache_policy
from tokentape.store import DatabaseStore

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6}
PROMPT = [5, 6, 7, 8, 9] * 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "mode", "continues"),
    [
        ("llama", "crop", "forward"),
        ("qwen3", "crop", "forward"),
        ("gpt2", "crop", "forward"),
        ("gemma3", "snapshots", "forward"),
        ("mistral", "snapshots", "forward"),
        ("mamba", "snapshots", "tokens"),
        ("qwen3-next", "snapshots", "forward"),
    ],
)
def test_each_family_gets_the_policy_of_its_cache(
    family: str,
    mode: str,
    continues: str,
    dtype: torch.dtype,
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    policy = cache_policy(make_lm(family, dtype=dtype).model)

    assert (policy.mode, policy.continues) == (mode, continues)
    assert policy.error < (1e-4 if dtype == torch.float32 else 0.25)


def test_a_cache_with_two_kinds_of_layers_is_copied() -> None:
    config = FalconH1Config(
        vocab_size=272, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, mamba_d_ssm=64,
        mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1,
        initializer_range=0.25,
    )  # fmt: skip
    assert cache_policy(FalconH1ForCausalLM(config).eval()).mode == "snapshots"


def test_the_policy_is_recorded(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    recorder = tt.Recorder(store)
    tt.ManualGenerator(lm.model, lm.tokenizer, recorder).generate(PROMPT, **GREEDY)
    policy = store.recording(recorder.run_id).started().cache_policy

    assert (policy["mode"], policy["reason"]) == ("crop", "GrowingLayer")
    assert 0 < policy["error"] < 1e-4


def test_a_probe_calls_no_hooks_and_draws_no_random_numbers(lm: tt.LoadedModel) -> None:
    seen: list[int] = []
    lm.model.register_forward_hook(lambda *_: seen.append(1))
    before = torch.get_rng_state()
    cache_policy(lm.model)

    assert seen == []
    assert torch.equal(torch.get_rng_state(), before)
    tt.ManualGenerator(lm.model, lm.tokenizer).generate(PROMPT, **GREEDY)
    assert len(seen) == GREEDY["max_new_tokens"]


def same_as_generate(lm: tt.LoadedModel, **settings: Any) -> GenerationResult:
    """Return the engine's second result for a prompt; check it against `generate`."""
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate(PROMPT, **GREEDY | settings)
    again = generator.generate([*PROMPT, 3, 4], **GREEDY | settings)
    prompt = torch.tensor([[*PROMPT, 3, 4]])
    expected = lm.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), **GREEDY | settings
    )
    assert again["generated_tokens"] == expected[0, prompt.shape[1] :].tolist()
    return again


def test_a_static_cache_is_created_for_each_turn_and_not_reused(lm: tt.LoadedModel) -> None:
    again = same_as_generate(lm, cache_implementation="static")

    assert again["cache"].decision == "bypass"
    assert again["cache"].reason == "fixed_size:StaticLayer"


def test_a_static_cache_has_the_size_of_its_turn_after_a_longer_generate(
    lm: tt.LoadedModel,
) -> None:
    config = hf.effective_config(lm.model, cache_implementation="static")
    prompt = torch.tensor([PROMPT])
    lm.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), **GREEDY, cache_implementation="static"
    )
    before = vars(lm.model).copy()
    cache = hf.new_cache(lm.model, config, total_tokens=9)

    assert {layer.max_cache_len for layer in cache.layers} == {8}
    assert vars(lm.model) == before


def test_a_fork_uses_a_static_cache_as_recorded(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 4, "cache_implementation": "static"}
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as run:
        run.chat("One?", **settings)
        said = run.chat("Two?", **settings)
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=2) as fork:
        again = fork.retake(store.recording(run.run_id).turns()[1])

    assert again.token_ids == said.token_ids
    assert again.cache.reason == "fixed_size:StaticLayer"


@pytest.mark.skipif(
    not hasattr(cache_utils, "Fp8QuantizedLayer"),
    reason="this release of transformers has no quantized cache without another library",
)
def test_a_quantized_cache_is_inexact_and_not_reused(lm: tt.LoadedModel) -> None:
    again = same_as_generate(lm, cache_implementation="quantized", cache_config={"backend": "fp8"})

    assert again["cache"].decision == "bypass"
    assert again["cache"].reason == (
        "inexact:Fp8QuantizedLayer: cached keys and values are rounded, computed ones are not"
    )


@pytest.mark.parametrize("kind", ["offloaded", "paged"])
def test_an_unavailable_kind_of_cache_is_rejected(
    kind: str, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, tt.Recorder(store))
    with pytest.raises(tt.ModelError, match=kind):
        generator.generate(PROMPT, cache_implementation=kind, **GREEDY)

    assert store.summaries() == []


class Uncopied:
    """A value in a cache that cannot be copied, like a stream of a device."""

    def __deepcopy__(self, memo: object) -> "Uncopied":
        raise TypeError("cannot be copied")


@pytest.fixture
def append_only(
    make_lm: Callable[..., tt.LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> tt.LoadedModel:
    """Return a recurrent model whose cache cannot be copied."""
    lm = make_lm("qwen3-next")
    prepare = type(lm.model)._prepare_cache_for_generation

    def with_a_handle(
        self: Any, config: GenerationConfig, made: dict[str, Any], *rest: Any
    ) -> None:
        prepare(self, config, made, *rest)
        (cache,) = (value for value in made.values() if isinstance(value, Cache))
        cache.layers[0].handle = Uncopied()  # type: ignore[attr-defined]

    monkeypatch.setattr(type(lm.model), "_prepare_cache_for_generation", with_a_handle)
    return lm


def test_a_cache_that_cannot_be_copied_is_only_appended_to(append_only: tt.LoadedModel) -> None:
    lm = append_only
    with pytest.raises(TypeError):
        copy.deepcopy(hf.new_cache(lm.model))
    assert cache_policy(lm.model).mode == "append"
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.cache_system_prompt("Be kind.")
    system = list(generator.conversation.ids)
    first = generator.generate([*system, 5, 6], **GREEDY)
    said = [*system, 5, 6, *first["generated_tokens"]]
    second = generator.generate([*said, 7], **GREEDY)
    elsewhere = generator.generate([*system, 9, 9], **GREEDY)

    assert (first["cache"].reason, first["cache"].reused_tokens) == ("extends", len(system))
    assert (second["cache"].reason, second["cache"].reused_tokens) == ("extends", len(said) - 1)
    assert elsewhere["cache"].decision == "miss"
    for ids, result in (([*said, 7], second), ([*system, 9, 9], elsewhere)):
        prompt = torch.tensor([ids])
        expected = lm.model.generate(prompt, attention_mask=torch.ones_like(prompt), **GREEDY)
        assert result["generated_tokens"] == expected[0, len(ids) :].tolist()
    with pytest.raises(tt.ModelError, match="cannot be returned"):
        generator.generate([5, 6], return_cache=True, **GREEDY)
