"""A system prompt that several runs of a batch have is computed once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from tests.samplers import SAMPLED
from tokentape.generation import hf
from tokentape.recorder.events import CacheSource, SystemPromptCached
from tokentape.recorder.projections import PromptWork
from tokentape.store import DatabaseStore

SYSTEM = "Be brief, and name the layer that you looked at. " * 6
CHUNK_TOKENS = 64


def probe(lm: tt.LoadedModel, store: DatabaseStore, seed: int, system: str = SYSTEM) -> str:
    with tt.Investigation(
        lm,
        store=store,
        name=f"seed {seed}",
        system_prompt=system,
        seed=seed,
        prefill_chunk_tokens=CHUNK_TOKENS,
    ) as run:
        run.chat("Hello", max_new_tokens=6, **SAMPLED)
        return run.run_id


def probe_at_once(lm: tt.LoadedModel, store: DatabaseStore, *systems: str) -> list[str]:
    with tt.Batch(lm, size=len(systems)) as batch:
        jobs = [batch.start(probe, lm, store, n, each) for n, each in enumerate(systems)]
    return [each.result() for each in jobs]


def system_of(store: DatabaseStore, run_id: str) -> SystemPromptCached:
    events = (each.event for each in store.recording(run_id).events())
    return next(each for each in events if isinstance(each, SystemPromptCached))


@pytest.fixture
def prefilled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the prompts that are forwarded in the tests, one for each prefill."""
    lengths: list[int] = []
    prefill = hf.Decoder.prefill

    def counted(self: hf.Decoder, *args: Any, **named: Any) -> Any:
        lengths.append(int(self.prompt.shape[1]))
        return prefill(self, *args, **named)

    monkeypatch.setattr(hf.Decoder, "prefill", counted)
    return lengths


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_run_computes_it_and_every_run_retraces_exactly(
    dtype: torch.dtype, lm: tt.LoadedModel, store: DatabaseStore, prefilled: list[int]
) -> None:
    lm.model.to(dtype)
    alone = [store.recording(probe(lm, store, seed)) for seed in range(3)]
    tokens = len(system_of(store, alone[0].run_id).ids)
    prefilled.clear()
    together = [store.recording(each) for each in probe_at_once(lm, store, *[SYSTEM] * 3)]

    assert prefilled.count(tokens) == 1
    systems = [system_of(store, each.run_id) for each in together]
    assert sorted(each.source for each in systems) == ["", "memory", "memory"]
    assert len({each.chunks for each in systems}) == 1
    assert len(systems[0].chunks) > 3, "members pause between its chunks"
    work = [PromptWork.of([each], []).system_tokens for each in systems]
    assert sorted(work) == [0, 0, tokens]
    for one, own in zip(together, alone, strict=True):
        if dtype is torch.float32:
            assert [list(t.reply_ids) for t in one.turns()] == [
                list(t.reply_ids) for t in own.turns()
            ]
            assert tt.verify(one, lm).verdict.value == "verified"
        assert tt.retrace(one, lm).verdict.value == "exact"
        assert tt.check(store, one.run_id).ok


def test_other_prompts_and_other_weights_are_computed_by_each_run(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    others = probe_at_once(lm, store, SYSTEM, SYSTEM + "!", "Hi.")
    with tt.Batch(lm, size=1) as batch:
        first = batch.start(probe, lm, store, 1).result()
        with torch.no_grad():
            lm.model.lm_head.weight.mul_(1.5)
        second = batch.start(probe, lm, store, 2).result()

    for each in (*others, first, second):
        assert system_of(store, each).source is CacheSource.COMPUTED


def test_a_hook_of_the_user_sees_the_system_prompt_of_every_run(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    seen: list[int] = []
    hook: Callable[..., None] = lambda module, args, output: seen.append(output.shape[1])  # noqa: E731
    handle = lm.model.model.embed_tokens.register_forward_hook(hook)
    runs = probe_at_once(lm, store, SYSTEM, SYSTEM)
    handle.remove()

    assert seen.count(CHUNK_TOKENS) >= 2 * (len(system_of(store, runs[0]).ids) // CHUNK_TOKENS)
    assert {system_of(store, each).source for each in runs} == {CacheSource.COMPUTED}


def test_a_run_that_fails_to_compute_it_leaves_it_to_the_next(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefill = hf.Decoder.prefill
    failures = iter([True])

    def failing(self: hf.Decoder, *args: Any, **named: Any) -> Any:
        if self.prompt.shape[1] > 200 and next(failures, False):
            named["between_chunks"]()
            raise RuntimeError("no memory")
        return prefill(self, *args, **named)

    monkeypatch.setattr(hf.Decoder, "prefill", failing)
    with tt.Batch(lm, size=3) as batch:
        jobs = [batch.start(probe, lm, store, seed) for seed in range(3)]
        errors = [each for each in jobs if isinstance(_error_of(each), RuntimeError)]

    assert len(errors) == 1
    done = [each.result() for each in jobs if each not in errors]
    assert sorted(system_of(store, each).source for each in done) == ["", "memory"]


def _error_of(job: Any) -> BaseException | None:
    try:
        job.result()
    except RuntimeError as error:
        return error
    return None
