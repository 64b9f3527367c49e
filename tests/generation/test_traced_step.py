"""Steps that are taken from a trace have the bits of those that the modules compute."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tests.generation.traced_steps import (
    PROMPT,
    TRACED,
    by_modules,
    decoder_of,
    make,
    same_caches,
    steps,
)
from tokentape.generation import hf
from tokentape.generation.hf import traced_step
from tokentape.generation.hf.traced_step import step_obstacle
from tokentape.store import DatabaseStore

pytestmark = pytest.mark.usefixtures("early_traces")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", TRACED)
def test_logits_and_cache_have_the_bits_of_the_modules(
    family: str,
    dtype: torch.dtype,
    make_lm: Callable[..., tt.LoadedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make(make_lm, family, dtype=dtype)
    ids = torch.tensor([random_ids(PROMPT, 1)])
    # More tokens than the spare capacity of a buffer.
    count = 150
    plain = decoder_of(model, ids=ids)
    expected = by_modules(monkeypatch, lambda: steps(plain, count))
    traced = decoder_of(model, ids=ids)
    logits = steps(traced, count)

    assert traced.steps.traced_steps > count - 10
    assert plain.steps.traced_steps == 0
    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))
    assert same_caches(plain, traced)


def test_logits_are_those_of_generate(lm: tt.LoadedModel) -> None:
    ids = torch.tensor([random_ids(PROMPT, 1)])
    decoder = decoder_of(lm.model, ids=ids)
    logits = steps(decoder, 29)
    output = lm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=30,
        max_new_tokens=30,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )

    assert decoder.steps.traced_steps > 20
    assert all(torch.equal(a, b) for a, b in zip(logits, output.logits, strict=True))


@pytest.mark.parametrize("recorded_by_modules", [True, False])
def test_a_recording_retraces_exactly_the_other_way(
    recorded_by_modules: bool,
    make_lm: Callable[..., tt.LoadedModel],
    record: Callable[..., tt.Recording],
    store: DatabaseStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = make_lm("llama")
    traced: list[int] = []
    forward = traced_step._Trace.forward

    def counting(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        traced.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(traced_step._Trace, "forward", counting)

    def act(by: bool, run: Callable[[], Any]) -> tuple[Any, int]:
        traced.clear()
        return (by_modules(monkeypatch, run) if by else run()), len(traced)

    recording, recorded_traces = act(recorded_by_modules, lambda: record(lm, store, tokens=20))
    traced_step._models.clear()
    report, replayed_traces = act(not recorded_by_modules, lambda: tt.retrace(recording, lm))

    assert report.verdict == "exact"
    assert (recorded_traces > 0, replayed_traces > 0) == (
        not recorded_by_modules,
        recorded_by_modules,
    )


def test_the_next_turn_proves_the_trace_again(lm: tt.LoadedModel) -> None:
    ids = torch.tensor([random_ids(PROMPT, 1)])
    steps(decoder_of(lm.model, ids=ids), 10)
    again = decoder_of(lm.model, ids=ids)
    steps(again, 10)

    assert again.steps.traced_steps == 10 - traced_step.UNTRACED_TURN_STEPS - 1


def test_a_fork_keeps_its_states_when_the_other_is_decoded_by_a_trace(
    lm: tt.LoadedModel,
) -> None:
    ids = torch.tensor([random_ids(PROMPT, 1)])
    decoder = decoder_of(lm.model, ids=ids)
    taken: list[tuple[Any, list[torch.Tensor]]] = []

    def fork(step: int) -> None:
        if step == 15:
            copied = hf.fork(decoder.cache)
            taken.append((copied, [each.keys.clone() for each in copied.layers]))
            taken.append((hf.fork(copied), taken[0][1]))

    steps(decoder, 30, between=fork)

    assert decoder.steps.traced_steps > 20
    for copied, keys in taken:
        assert all(torch.equal(a.keys, b) for a, b in zip(copied.layers, keys, strict=True))


def other_bits(keys: torch.Tensor, tokens: int) -> torch.Tensor:
    return keys * 1.0001


def fixed_shape(keys: torch.Tensor, tokens: int) -> torch.Tensor:
    return keys.reshape(1, keys.shape[1], tokens, -1)


@pytest.mark.parametrize("alter", [other_bits, fixed_shape])
def test_a_trace_without_the_bits_of_the_modules_is_given_up(
    alter: Callable[[torch.Tensor, int], torch.Tensor],
    lm: tt.LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = torch.tensor([random_ids(PROMPT, 1)])
    plain = decoder_of(lm.model, ids=ids)
    expected = by_modules(monkeypatch, lambda: steps(plain, 30))
    right = traced_step._TracedLayer.update

    def wrong(self: Any, *args: Any, **named: Any) -> Any:
        keys, values = right(self, *args, **named)
        return alter(keys, int(self._ids.shape[1])), values

    monkeypatch.setattr(traced_step._TracedLayer, "update", wrong)
    decoder = decoder_of(lm.model, ids=ids)
    logits = steps(decoder, 30)

    known = traced_step._models[lm.model]
    assert decoder.steps.traced_steps == 0
    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))
    assert same_caches(plain, decoder), "what the wrong trace wrote is overwritten"
    assert known.obstacle == "its trace does not give the bits of its modules"


def test_a_model_that_cannot_be_traced_is_decoded_by_its_modules(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(torch.jit, "trace", fail)
    decoder = decoder_of(lm.model, ids=torch.tensor([random_ids(PROMPT, 1)]))
    steps(decoder, 20)

    assert decoder.steps.traced_steps == 0
    assert traced_step._models[lm.model].obstacle == "RuntimeError while it was traced"


@pytest.mark.parametrize(
    ("family", "obstacle"),
    [
        ("llama", None),
        ("qwen3", None),
        ("gpt2", "family"),
        ("gemma3", "family"),
        ("mamba", "family"),
        ("mistral", "cache"),
    ],
)
def test_obstacles_have_names(
    family: str, obstacle: str | None, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    model = make_lm(family).model

    assert step_obstacle(model, hf.new_cache(model)) == obstacle


def test_eager_attention_is_not_traced(lm: tt.LoadedModel) -> None:
    lm.model.set_attn_implementation("eager")

    assert step_obstacle(lm.model, hf.new_cache(lm.model)) == "attention kernel"


def test_a_model_that_is_computed_in_a_wider_dtype_is_not_traced(
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    model = make_lm("llama", dtype=torch.bfloat16).model
    hf.layer_cast.compute_in(model, "float32")

    assert step_obstacle(model, hf.new_cache(model)) == "computed in another dtype"


def test_tracing_changes_nothing_of_the_model(lm: tt.LoadedModel) -> None:
    weights = {name: (id(each), each._version) for name, each in lm.model.named_parameters()}
    modules = [id(each) for each in lm.model.modules()]
    names = [sorted(vars(each)) for each in lm.model.modules()]
    decoder = decoder_of(lm.model, ids=torch.tensor([random_ids(PROMPT, 1)]))
    steps(decoder, 20)

    assert decoder.steps.traced_steps > 10
    after = {name: (id(each), each._version) for name, each in lm.model.named_parameters()}
    assert after == weights
    assert [id(each) for each in lm.model.modules()] == modules
    assert [sorted(vars(each)) for each in lm.model.modules()] == names
    assert all(each.requires_grad for each in lm.model.parameters())


def test_a_trace_keeps_neither_the_model_nor_its_weights(
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    model = make_lm("llama").model
    decoder = decoder_of(model, ids=torch.tensor([random_ids(PROMPT, 1)]))
    steps(decoder, 20)
    assert decoder.steps.traced_steps > 10
    gone = [weakref.ref(model), *(weakref.ref(each) for each in model.parameters())]
    del model, decoder
    gc.collect()

    assert [each() for each in gone] == [None] * len(gone)


def test_no_traced_tensor_is_one_of_inference_mode(lm: tt.LoadedModel) -> None:
    decoder = decoder_of(lm.model, ids=torch.tensor([random_ids(PROMPT, 1)]))
    logits = steps(decoder, 20)
    states = [each for layer in decoder.cache.layers for each in hf.tensors_of(vars(layer))]

    assert decoder.steps.traced_steps > 10
    assert not any(each.is_inference() for each in (*logits, *states))
