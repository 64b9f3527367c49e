"""Changes of a model's config, values and code are named by field, with both values."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.replay.fault_case import Case, rerecord
from tests.replay.conversations import converse
from tests.replay.model_faults import copy_of, rebuilt
from tokentape.recorder.events import Event, RunStarted
from tokentape.replay.reports.terminal import render
from tokentape.store import DatabaseStore

Replay = Callable[..., tt.Report]


@pytest.fixture
def recording(lm: tt.LoadedModel, store: DatabaseStore) -> tt.Recording:
    return converse(lm, store, turns=2)


def other_theta(config: Any) -> None:
    config.rope_parameters["rope_theta"] = 10010.0


@pytest.mark.parametrize("replay", [tt.verify, tt.retrace, tt.regenerate])
def test_a_field_of_the_config_is_named_with_both_values(
    replay: Replay, recording: tt.Recording, lm: tt.LoadedModel
) -> None:
    other = tt.LoadedModel(rebuilt(lm.model, other_theta), lm.tokenizer, lm.name)
    report = replay(recording, other)

    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert report.reason == "not what was recorded: config"
    assert [each.name for each in report.causes] == ["config"]
    assert "rope_parameters.rope_theta 10000.0 then, 10010.0 now" in report.causes[0].sentence
    assert report.turns[0].logprob_difference_max > 1e-4
    assert "config" in render(report)


def test_a_value_of_a_module_is_named_that_the_config_does_not_show(
    recording: tt.Recording, lm: tt.LoadedModel
) -> None:
    other = copy_of(lm)
    other.model.model.layers[1].input_layernorm.variance_epsilon = 0.5
    report = tt.verify(recording, other)

    sentence = report.causes[0].sentence
    assert [each.name for each in report.causes] == ["config"]
    assert "model.layers.*.input_layernorm.variance_epsilon 1e-06 then, 0.5 in 1" in sentence


def test_a_config_that_no_module_reads_is_incomparable_with_equal_numbers(
    recording: tt.Recording, lm: tt.LoadedModel
) -> None:
    """As a template or a tokenizer is that changed, and is not used in a turn."""
    other = copy_of(lm)
    other.model.config.rms_norm_eps = 0.5

    assert tt.verify(recording, other).verdict is tt.Verdict.INCOMPARABLE
    assert tt.verify(recording, other, ignore=["config"]).verdict is tt.Verdict.VERIFIED


@pytest.mark.parametrize(
    ("name", "value"),
    [("use_cache", False), ("eos_token_id", 7), ("attention_dropout", 0.3), ("name_or_path", "x")],
)
def test_a_field_without_an_effect_is_noted_at_most(
    name: str, value: Any, recording: tt.Recording, lm: tt.LoadedModel
) -> None:
    other = copy_of(lm)
    setattr(other.model.config, name, value)
    report = tt.verify(recording, other)

    assert report.verdict is tt.Verdict.VERIFIED, render(report)
    assert not any(each.forbids for each in report.differences)


def test_a_hook_that_only_reads_is_noted(recording: tt.Recording, lm: tt.LoadedModel) -> None:
    other = copy_of(lm)
    other.model.model.norm.register_forward_hook(lambda module, args, output: None)
    report = tt.verify(recording, other)

    assert report.verdict is tt.Verdict.VERIFIED
    assert [each.field for each in report.differences] == ["hooks"]


@pytest.mark.parametrize("factor", [1 + 5e-7, 1.01])
def test_a_hook_that_moves_numbers_is_named_by_a_retrace_however_little_they_move(
    recording: tt.Recording, lm: tt.LoadedModel, factor: float
) -> None:
    """Not a temperature that was divided by a little less."""
    other = copy_of(lm)
    projection = other.model.model.layers[0].self_attn.q_proj
    projection.register_forward_hook(lambda module, args, output: output * factor)
    report = tt.retrace(recording, other)

    assert report.rows
    assert [each.name for each in report.causes] == ["model_code"]
    assert "layers.*.self_attn.q_proj none then" in report.causes[0].sentence


def test_a_recording_of_0_1_0_says_that_it_has_no_config(
    recording: tt.Recording, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def forget(event: Event) -> Event:
        if not isinstance(event, RunStarted):
            return event
        return dataclasses.replace(event, config={}, module_state={}, model_code={}, model_class="")

    old = rerecord(Case(recording, lm, store), forget).recording
    assert tt.verify(old, lm).verdict is tt.Verdict.VERIFIED
    other = tt.LoadedModel(rebuilt(lm.model, other_theta), lm.tokenizer, lm.name)
    report = tt.verify(old, other)

    assert not report.passes
    assert [each.name for each in report.causes] == ["unknown"]
    assert "does not say which config and code its model had" in report.causes[0].sentence


def test_another_release_of_transformers_is_not_another_code(
    recording: tt.Recording, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Releases add fields and change code: only the fields that both have are compared."""

    def older(event: Event) -> Event:
        if not isinstance(event, RunStarted):
            return event
        config = {name: each for name, each in event.config.items() if name != "mlp_bias"}
        return dataclasses.replace(
            event,
            config={**config, "gone": 3},
            module_state={},
            model_code={**event.model_code, "classes": {"modeling_llama.LlamaMLP": "0" * 16}},
            environment={**event.environment, "transformers": "5.0.0"},
        )

    old = rerecord(Case(recording, lm, store), older).recording
    report = tt.verify(old, lm)

    assert report.verdict is tt.Verdict.VERIFIED
    assert [each.field for each in report.differences] == ["transformers"]


def test_a_weight_that_was_written_past_the_counters_of_torch_is_found(
    recording: tt.Recording, lm: tt.LoadedModel
) -> None:
    assert tt.verify(recording, lm).passes
    with torch.no_grad():
        lm.model.model.layers[1].self_attn.o_proj.weight.data[5, 7] += 0.5
    report = tt.verify(recording, lm)

    assert not report.passes
    assert [each.name for each in report.causes] == ["weights"]
    assert "model.layers.1.self_attn.o_proj.weight" in report.causes[0].sentence


def test_a_config_that_was_changed_within_the_run_is_named(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=1) as run:
        run.chat("Hello", max_new_tokens=8)
        for layer in lm.model.model.layers:
            layer.self_attn.scaling *= 1.5
        run.chat("And now?", max_new_tokens=8)
    for layer in lm.model.model.layers:
        layer.self_attn.scaling /= 1.5
    report = tt.verify(store.recording(run.run_id), lm)

    assert report.causes[0].name == "config"
    assert "by the cache keys of turns 1 and 2" in report.causes[0].sentence
