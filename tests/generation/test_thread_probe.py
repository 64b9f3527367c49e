"""The number of threads is chosen by a probe, recorded, and used in every turn."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tokentape.generation.engine import run_numerics, thread_probe
from tokentape.generation.engine.thread_probe import ThreadProbe, choose_threads, probe_threads
from tokentape.recorder.events import RunStarted
from tokentape.store import DatabaseStore


@pytest.fixture(autouse=True)
def _threads_stay() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("step_ms", "chosen"),
    [
        pytest.param({1: 60.0, 2: 34.0}, 2, id="faster"),
        pytest.param({1: 60.0, 2: 59.0}, 1, id="hardly faster"),
        pytest.param({1: 60.0, 2: 1800.0}, 1, id="waiting for another process"),
        pytest.param({1: 60.0, 2: 40.0, 4: 39.0}, 2, id="no faster with the most"),
        pytest.param({1: 60.0, 2: 61.0, 4: 30.0}, 4, id="faster with the most alone"),
    ],
)
def test_the_fewest_threads_that_are_fast_are_chosen(
    step_ms: dict[int, float], chosen: int
) -> None:
    assert choose_threads(step_ms).threads == chosen


def test_the_reason_names_all_times() -> None:
    probe = choose_threads({1: 60.04, 2: 34.0})

    assert probe.reason == "a step takes 60.0 ms with 1, 34.0 ms with 2"


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))]
)
def test_powers_of_two_and_all_cores_are_tried(cores: int, counts: tuple[int, ...]) -> None:
    assert thread_probe._counts(cores) == counts


def test_a_probe_leaves_model_hooks_and_random_state_alone(lm: tt.LoadedModel) -> None:
    seen: list[Any] = []
    lm.model.model.norm.register_forward_hook(lambda *arguments: seen.append(arguments))
    state = torch.get_rng_state()
    probe = probe_threads(lm.model)

    assert probe.threads in probe.step_ms
    assert probe.step_ms.keys() == set(thread_probe._counts(thread_probe._cores()))
    assert seen == []
    assert torch.equal(torch.get_rng_state(), state)
    lm.model(torch.tensor([[5, 6]]))
    assert len(seen) == 1, "the hook is there again"


def test_a_run_uses_and_records_what_its_probe_chose(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[Any] = []

    def choose(model: Any) -> ThreadProbe:
        probes.append(model)
        return ThreadProbe(threads=3, reason="", step_ms={3: 1.0})

    monkeypatch.setattr(run_numerics, "probe_threads", choose)
    used: list[int] = []
    with tt.Investigation(
        lm, store=store, name="n", system_prompt="Be brief.", seed=1, threads="probe"
    ) as run:
        for text in ("a", "b"):
            run.chat(
                text,
                max_new_tokens=3,
                callback=lambda token_id, logits: used.append(torch.get_num_threads()),
            )
    started = next(
        each.event
        for each in store.recording(run.run_id).events()
        if isinstance(each.event, RunStarted)
    )

    assert probes == [lm.model], "one probe for all turns"
    assert started.threads == 3
    assert set(used) == {3}


def test_a_generator_without_a_recorder_probes_too(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ThreadProbe(threads=2, reason="", step_ms={2: 1.0})
    monkeypatch.setattr(run_numerics, "probe_threads", lambda model: chosen)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, threads="probe")
    used: list[int] = []
    generator.generate(
        random_ids(9, 1),
        max_new_tokens=2,
        do_sample=False,
        callback=lambda token_id, logits: used.append(torch.get_num_threads()),
    )

    assert set(used) == {2}
    assert generator.numerics.probe == chosen


@pytest.mark.parametrize("value", ["fastest", "", 0, True])
def test_other_words_and_numbers_are_refused(lm: tt.LoadedModel, value: Any) -> None:
    with pytest.raises(tt.ModelError, match="threads must be"):
        tt.ManualGenerator(lm.model, lm.tokenizer, threads=value)
