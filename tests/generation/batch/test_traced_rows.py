"""Shared forwards that are taken from a trace have the bits of those that the modules compute."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from tests.generation.batch.row_sequences import DTYPES, prompts, sequence
from tests.generation.traced_steps import TRACED, make, same_caches
from tokentape.generation import hf
from tokentape.generation.batch.sharing import probe_sharing
from tokentape.generation.hf import traced_rows
from tokentape.generation.hf.row_attention import RowCaches
from tokentape.store import DatabaseStore

PLACES = (5, 0, 3, 2)


def sequences(model: Any) -> list[hf.SequenceStep]:
    return [sequence(model, each) for each in prompts(0)]


def longer(step: hf.SequenceStep, token: int) -> hf.SequenceStep:
    return hf.SequenceStep(step.decoder, torch.cat((step.ids, torch.tensor([[token]])), dim=-1))


def proven(model: Any) -> hf.SharedForwards:
    forwards = hf.SharedForwards(model)
    assert forwards.prove_trace(sequences(model), sequences(model))
    return forwards


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", TRACED)
def test_logits_and_caches_have_the_bits_of_the_modules(
    family: str, dtype: str, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    model = make(make_lm, family).to(DTYPES[dtype])
    plain, traced = hf.SharedForwards(model), proven(model)
    before = traced.traced_forwards
    by_modules, by_trace = sequences(model), sequences(model)

    # More tokens than the spare capacity of a buffer.
    for step in range(150):
        count = 4 if step % 3 else 2  # sequences join and leave
        for rows in (6, 7):
            expected, found = (
                forwards.forward(steps[:count], rows=rows, places=PLACES[:count])
                for forwards, steps in ((plain, by_modules), (traced, by_trace))
            )
            assert all(map(torch.equal, found, expected))
            for steps in (by_modules, by_trace):
                steps[:count] = [longer(each, 3 + step) for each in steps[:count]]

    assert traced.traced_forwards - before == 300
    for one, other in zip(by_modules, by_trace, strict=True):
        assert same_caches(one.decoder, other.decoder)


def test_the_runs_of_a_batch_are_forwarded_by_a_trace(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def probe(seed: int) -> str:
        with tt.Investigation(
            lm, store=store, name=f"seed {seed}", system_prompt="Be brief.", seed=seed
        ) as run:
            return run.chat("Hello", max_new_tokens=12, min_new_tokens=12).text

    with tt.Batch(lm, size=3) as batch:
        jobs = [batch.start(probe, seed) for seed in (1, 2, 3)]

    assert all(each.result() for each in jobs)
    assert batch.sharing is not None
    assert batch.sharing.forwards.traced_forwards > 10


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "mistral"])
def test_other_families_and_sliding_windows_are_forwarded_by_their_modules(
    family: str, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    forwards = probe_sharing(make_lm(family).model, 2).forwards

    assert forwards.traced_forwards == 0


def test_a_changed_weight_acts_on_the_next_forward(lm: tt.LoadedModel) -> None:
    model: Any = lm.model
    forwards = proven(model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.5)

    found, expected = (
        each.forward(sequences(model), rows=4, places=range(4))
        for each in (forwards, hf.SharedForwards(model))
    )

    assert all(map(torch.equal, found, expected))
    assert forwards.traced_forwards == 2


def test_a_hook_sees_forwards_by_the_modules(lm: tt.LoadedModel) -> None:
    model: Any = lm.model
    forwards, seen = proven(model), []
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *args: seen.append(1))
    before = forwards.traced_forwards
    forwards.forward(sequences(model), rows=4, places=range(4))
    assert (len(seen), forwards.traced_forwards) == (1 + len(prompts(0)), before)

    handle.remove()
    forwards.forward(sequences(model), rows=4, places=range(4))
    assert forwards.traced_forwards == before + 1


def other_bits(attended: torch.Tensor) -> torch.Tensor:
    return attended * 1.0001


def failing(attended: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no")


@pytest.mark.parametrize("alter", [other_bits, failing])
def test_a_trace_without_the_bits_of_the_modules_is_given_up(
    alter: Callable[[torch.Tensor], torch.Tensor],
    lm: tt.LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attend = RowCaches.append_and_attend
    monkeypatch.setattr(
        RowCaches, "append_and_attend", lambda self, *args: alter(attend(self, *args))
    )
    forwards = hf.SharedForwards(lm.model)

    assert not forwards.prove_trace(sequences(lm.model), sequences(lm.model))

    before = forwards.traced_forwards
    forwards.forward(sequences(lm.model), rows=4, places=range(4))
    assert forwards.traced_forwards == before


def test_a_model_that_cannot_be_traced_is_forwarded_by_its_modules(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(torch.jit, "trace", fail)
    forwards = hf.SharedForwards(lm.model)

    assert not forwards.prove_trace(sequences(lm.model), sequences(lm.model))
    assert traced_rows._models[lm.model] == "RuntimeError while it was traced"


def test_a_trace_keeps_neither_the_model_nor_its_weights(
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    model = make_lm("llama").model
    forwards = proven(model)
    gone = [weakref.ref(model), *(weakref.ref(each) for each in model.parameters())]
    del model, forwards
    gc.collect()

    assert [each() for each in gone] == [None] * len(gone)
