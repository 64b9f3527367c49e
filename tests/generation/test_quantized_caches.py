"""Quantized KV caches: their size, their reuse, and what a replay can say of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, cache_utils

import tokentape as tt
from tests.generation.cold_runs import GREEDY
from tokentape.generation import hf
from tokentape.store import DatabaseStore

FP8: dict[str, Any] = {"backend": "fp8"}
needs_fp8 = pytest.mark.skipif(
    not hasattr(cache_utils, "Fp8QuantizedLayer"),
    reason="this release of transformers has no quantized cache without another library",
)


def quanto(group: int = 16) -> dict[str, Any]:
    pytest.importorskip("optimum.quanto", reason="the extra `quantization` has it")
    return {"backend": "quanto", "q_group_size": group}


def settings_of(cache_config: dict[str, Any]) -> dict[str, Any]:
    return {**GREEDY, "cache_implementation": "quantized", "cache_config": cache_config}


def record(lm: tt.LoadedModel, store: DatabaseStore, settings: dict[str, Any]) -> tt.Recording:
    with tt.Investigation(lm, store=store, name="rounded", system_prompt="Hi.") as run:
        run.chat("Hello", **settings)
        run.chat("More", **settings)
    return store.recording(run.run_id)


def test_a_run_with_a_quantized_cache_is_recorded_and_regenerated(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recording = record(lm, store, settings_of(quanto()))

    decisions = [turn.cache for turn in recording.turns() if turn.cache]
    assert {(str(each.decision), each.reused_tokens) for each in decisions} == {("bypass", 0)}
    assert "cached keys and values are rounded, computed ones are not" in decisions[0].reason
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT


def test_one_forward_does_not_judge_what_read_a_quantized_cache(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Its numbers differ honestly: `diverged`, because of a changed prompt, would be wrong."""
    report = tt.verify(record(lm, store, settings_of(quanto())), lm)

    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert report.reason.startswith("turn 1 read a quantized KV cache")
    assert report.causes == ()


@needs_fp8
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_does_not_pass_for_the_noise_of_16_bits(
    dtype: torch.dtype, family: str, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    """float8 moves the logits by 0.17 to 0.48 standard deviations, 16 bits by 0.02 at most."""
    lm = make_lm(family)
    lm.model.to(dtype)
    config = GenerationConfig(cache_implementation="quantized", cache_config=FP8)

    assert tt.cache_policy(lm.model, config).mode == "none"
    assert tt.cache_policy(lm.model).mode == "crop"


@needs_fp8
def test_each_setting_of_a_quantized_cache_has_its_own_key() -> None:
    fp8, other = (
        GenerationConfig(cache_implementation="quantized", cache_config=each)
        for each in (FP8, {"backend": "quanto"})
    )

    assert hf.cache_kind(fp8) != hf.cache_kind(other)
    assert hf.cache_kind(None) == hf.cache_kind(GenerationConfig()) == "None"


def test_the_bytes_of_a_quantized_cache_are_those_of_its_packed_tensors(
    lm: tt.LoadedModel,
) -> None:
    config = GenerationConfig(cache_implementation="quantized", cache_config=quanto())
    tokens, caches = 32, {}
    for name, chosen in (("packed", config), ("plain", GenerationConfig())):
        cache = hf.new_cache(lm.model, chosen, total_tokens=tokens)
        with torch.no_grad():
            lm.model(torch.arange(tokens)[None], **hf.cache_argument(lm.model, cache))
        caches[name] = hf.kv_bytes(cache)

    assert 0 < caches["packed"] < caches["plain"] / 2


def test_a_model_whose_heads_are_no_whole_groups_is_refused_in_one_line(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, tt.Recorder(store))
    with pytest.raises(tt.ModelError, match=r"cannot use a quantized .*Group size \(4096\)") as why:
        generator.generate("Hello", **settings_of(quanto(group=4096)))

    assert "\n" not in str(why.value)
    assert store.summaries() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_with_a_quantized_cache_is_retraced_exactly(
    dtype: torch.dtype, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    lm.model.to(dtype)

    report = tt.retrace(record(lm, store, settings_of(quanto())), lm)

    assert report.verdict is tt.Verdict.EXACT
