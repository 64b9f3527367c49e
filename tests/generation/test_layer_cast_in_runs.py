"""Runs of a model that keeps its weights in 16 bits and computes in float32."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tokentape.generation import hf
from tokentape.generation.cache import cache_policy
from tokentape.generation.cache.key import cache_key
from tokentape.generation.hf.layer_cast import compute_in
from tokentape.store import DatabaseStore

PROMPT = random_ids(40, seed=1)
SETTINGS: dict[str, Any] = {"max_new_tokens": 12, "do_sample": True, "temperature": 0.8}


@pytest.fixture
def narrow(make_lm: Callable[..., tt.LoadedModel]) -> tt.LoadedModel:
    """A tiny Llama in bfloat16 that computes in float32."""
    lm = make_lm("llama", dtype=torch.bfloat16)
    compute_in(lm.model, "float32")
    return lm


@pytest.fixture
def whole(make_lm: Callable[..., tt.LoadedModel]) -> tt.LoadedModel:
    """The same weights, cast whole."""
    lm = make_lm("llama", dtype=torch.bfloat16)
    return tt.LoadedModel(lm.model.float(), lm.tokenizer, lm.name)


def record(lm: tt.LoadedModel, store: DatabaseStore) -> str:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=7) as run:
        for question in ("One?", "And two?", "Three?"):
            run.chat(question, **SETTINGS)
    return run.run_id


def rows(store: DatabaseStore, run_id: str) -> list[tuple[int, float, float, float]]:
    frame = tt.tokens_df(store, run_id)
    columns = ("token_id", "logprob", "entropy", "top_gap")
    return list(zip(*(frame[each].tolist() for each in columns), strict=True))


def test_a_run_records_the_numbers_of_the_weights_cast_whole(
    narrow: tt.LoadedModel, whole: tt.LoadedModel, store: DatabaseStore
) -> None:
    run_id = record(narrow, store)
    tokens = rows(store, run_id)

    assert len(tokens) > 20
    assert tokens == rows(store, record(whole, store))
    assert "hit" in tt.cache_df(store, run_id)["decision"].tolist()


def test_a_run_says_the_dtype_of_its_numbers_and_the_manifest_of_its_weights(
    narrow: tt.LoadedModel, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    described = narrow.identity.described()
    stored = make_lm("llama", dtype=torch.bfloat16).identity.described()

    assert (described["dtype"], stored["dtype"]) == ("float32", "bfloat16")
    assert described["weights_sha256"] == stored["weights_sha256"]


def test_the_transcript_of_a_run_says_both_dtypes(tiny_folder: Path, store: DatabaseStore) -> None:
    lm = tt.load_model(tiny_folder, dtype="bfloat16", compute_dtype="float32")
    started = store.recording(record(lm, store)).started()

    assert started.loading == {"dtype": "bfloat16", "compute_dtype": "float32"}
    assert ", float32 over weights in bfloat16 on cpu, " in started.describe()


def test_verify_is_definite_at_the_floor_of_float32(
    narrow: tt.LoadedModel, store: DatabaseStore
) -> None:
    recording = store.recording(record(narrow, store))
    report = tt.verify(recording, narrow)

    assert report.verdict == "verified"
    assert report.floor is not None
    assert report.floor.dtype == "float32"
    assert tt.regenerate(recording, narrow).verdict == "exact"
    assert tt.retrace(recording, narrow).verdict == "exact"


@pytest.mark.parametrize("family", ["gemma3", "mamba", "qwen3-next"])
def test_other_kinds_of_caches_get_the_verdicts_of_the_weights_cast_whole(
    family: str, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = make_lm(family, dtype=torch.bfloat16)
    whole = tt.LoadedModel(copy.deepcopy(lm.model).float(), lm.tokenizer, lm.name)
    compute_in(lm.model, "float32")
    recordings = [(store.recording(record(each, store)), each) for each in (lm, whole)]
    reports = [tt.verify(*each) for each in recordings]

    assert reports[0].verdict == reports[1].verdict
    assert reports[0].turns == reports[1].turns
    assert tt.regenerate(*recordings[0]).verdict == "exact"
    assert tt.retrace(*recordings[0]).verdict == "exact"


def test_one_changed_bit_of_a_weight_is_found_by_retrace(
    narrow: tt.LoadedModel, store: DatabaseStore
) -> None:
    recording = store.recording(record(narrow, store))
    with torch.no_grad():
        narrow.model.model.layers[1].mlp.up_proj.weight.view(torch.int16)[3, 4] ^= 1
    report = tt.retrace(recording, narrow)

    assert report.verdict == "incomparable"
    assert report.turns[0].differing_rows > 0


def test_a_changed_weight_is_found(narrow: tt.LoadedModel, store: DatabaseStore) -> None:
    recording = store.recording(record(narrow, store))
    changed = tt.LoadedModel(copy.deepcopy(narrow.model), narrow.tokenizer, narrow.name)
    with torch.no_grad():
        changed.model.model.layers[1].mlp.up_proj.weight[3] *= 1.5
    report = tt.verify(recording, changed)

    assert report.verdict == "incomparable"
    assert "1 of" in next(each for each in report.differences if each.forbids).detail


def test_a_run_is_resumed_and_forked(
    narrow: tt.LoadedModel, whole: tt.LoadedModel, store: DatabaseStore
) -> None:
    run_id = record(narrow, store)
    with tt.Investigation.fork(store, run_id, narrow, at_turn=2) as fork:
        again = fork.retake(store.recording(run_id).turns()[1])
    with tt.Investigation.resume(store, run_id, narrow) as run:
        reply = run.chat("Four?", **SETTINGS)
    other = record(whole, store)
    with tt.Investigation.resume(store, other, whole) as run:
        expected = run.chat("Four?", **SETTINGS)

    assert again.token_ids == store.recording(run_id).turns()[1].reply_ids
    assert reply.token_ids == expected.token_ids


def test_calibrate_measures_float32(narrow: tt.LoadedModel, store: DatabaseStore) -> None:
    floor = tt.calibrate(store.recording(record(narrow, store)), narrow)

    assert floor.dtype == "float32"
    assert floor.logprob_floor < 0.01


def test_the_probe_and_the_cache_are_those_of_float32(
    narrow: tt.LoadedModel, whole: tt.LoadedModel
) -> None:
    assert cache_policy(narrow.model) == cache_policy(whole.model)
    assert cache_key(narrow.model)["dtype"] == "torch.float32"
    assert cache_key(narrow.model)["hooks"] == "none"


def test_no_foreign_hook_is_seen_and_inference_mode_is_used(narrow: tt.LoadedModel) -> None:
    made_in_inference_mode: list[bool] = []
    head = narrow.model.lm_head
    compute_logits = head.forward

    def observed(hidden: torch.Tensor) -> torch.Tensor:
        made_in_inference_mode.append(torch.is_inference_mode_enabled())
        result: torch.Tensor = compute_logits(hidden)
        return result

    head.forward = observed
    result = tt.ManualGenerator(narrow.model, narrow.tokenizer).generate(
        PROMPT, return_cache=True, **SETTINGS
    )
    states = [
        each
        for layer in result["past_key_values"].cache.layers
        for each in hf.tensors_of(vars(layer))
    ]

    assert made_in_inference_mode
    assert all(made_in_inference_mode)
    assert {each.dtype for each in states} == {torch.float32}
    assert not any(each.is_inference() for each in states)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_activation_statistics", {"layer_name": ["1", "-1"], "recompute": True}),
        ("get_attention_patterns", {"layer": "1"}),
        ("get_logit_lens", {"layers": ["0", "1", "-1"]}),
    ],
)
def test_tools_see_the_activations_of_float32(
    name: str, arguments: dict[str, Any], narrow: tt.LoadedModel, whole: tt.LoadedModel
) -> None:
    payloads = []
    for lm in (narrow, whole):
        tools = tt.default_tools(lm)
        tools.inspector.bind(ids=lambda: PROMPT, turn=lambda: 1)
        result = tools.call(name, arguments)
        assert result.error is None
        payloads.append(result.payload)

    assert payloads[0] == payloads[1]


def test_tools_see_the_weights_as_they_are_stored(
    narrow: tt.LoadedModel, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    stored = make_lm("llama", dtype=torch.bfloat16)
    found, expected = (
        tt.default_tools(lm).call("get_weight_statistics", {"layer_name": "lm_head"})
        for lm in (narrow, stored)
    )
    summary = json.loads(tt.default_tools(narrow).call("get_architecture_summary", {}).content)

    assert found.payload == expected.payload
    assert (summary["dtype"], summary["compute_dtype"]) == ("bfloat16", "float32")


def test_interventions_change_what_they_change_with_the_weights_cast_whole(
    narrow: tt.LoadedModel, whole: tt.LoadedModel, store: DatabaseStore
) -> None:
    direction = torch.randn(64, generator=torch.Generator().manual_seed(1))
    runs = []
    for lm in (narrow, whole):
        with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=7) as run:
            run.chat("One?", **SETTINGS)
            run.intervene(tt.Intervention.steer("on", "model.layers.1", direction))
            run.chat("Two?", **SETTINGS)
        runs.append(rows(store, run.run_id))

    assert runs[0] == runs[1]
    assert tt.verify(store.recording(run.run_id), whole).verdict == "verified"


def test_prefixes_are_stored_and_found_in_another_process(
    narrow: tt.LoadedModel, tmp_path: Path
) -> None:
    generators = [
        tt.ManualGenerator(narrow.model, narrow.tokenizer, prefix_folder=tmp_path) for _ in range(2)
    ]
    for generator in generators:
        generator.cache_system_prompt("You are kind. " * 3)
    replies = [each.generate("Hello", **SETTINGS, seed=3) for each in generators]

    assert list(tmp_path.iterdir())
    assert replies[0]["generated_tokens"] == replies[1]["generated_tokens"]
