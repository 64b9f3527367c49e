"""A retrace of an honest recording is exact in every dtype, and says so of nothing else."""

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

import tokentape as tt
from benchmarks.replay.fault_case import Case, rerecord
from benchmarks.tiny_models import FAMILIES
from tests.replay.conversations import converse
from tests.replay.honest_runs import HonestRun
from tokentape.generation import fingerprints
from tokentape.generation.hooks.hook_types import TapeHook
from tokentape.recorder.events import (
    CacheSource,
    Event,
    PrefillCompleted,
    RunStarted,
    SystemPromptCached,
)
from tokentape.replay import load_run
from tokentape.replay.checking import machine
from tokentape.replay.reports.terminal import render
from tokentape.replay.results.verdict import CauseKind
from tokentape.replay.retracing.row_difference import ulps_between
from tokentape.store import DatabaseStore

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}


@pytest.fixture(autouse=True)
def _restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def retraces(lm: tt.LoadedModel, seed: int) -> int:
    """Record an honest run, retrace it with other threads than it had, and return the count."""
    with tt.open_store("sqlite://") as store:
        assert isinstance(store, DatabaseStore)
        torch.set_num_threads(1)
        recordings = HonestRun(lm, store, seed).record()
        for recording in recordings:
            torch.set_num_threads(1 + seed % 2)
            report = tt.retrace(recording, lm)
            assert report.verdict is tt.Verdict.EXACT, f"seed {seed}\n{render(report)}"
            assert not report.rows
    return len(recordings)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_honest_runs_are_retraced_exactly(
    make_lm: Callable[..., tt.LoadedModel], family: str, dtype: torch.dtype
) -> None:
    lm = make_lm(family, dtype=dtype)
    assert sum(retraces(lm, seed) for seed in range(3)) >= 3


def test_a_retrace_uses_neither_the_global_random_state_nor_the_store(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recording = converse(lm, store, **SAMPLED)
    events = len(list(recording.events()))
    before = torch.get_rng_state()

    assert tt.retrace(recording, lm).verdict is tt.Verdict.EXACT

    assert torch.equal(torch.get_rng_state(), before)
    assert len(list(recording.events())) == events
    assert len(store.summaries()) == 1


def test_threads_are_set_as_recorded_and_restored(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = type(lm.model).forward

    @functools.wraps(forward)
    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(torch.get_num_threads())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(lm.model), "forward", noting)
    torch.set_num_threads(2)
    recording = converse(lm, store)
    torch.set_num_threads(1)
    seen.clear()
    report = tt.retrace(recording, lm)

    assert report.verdict is tt.Verdict.EXACT
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1
    assert "threads" not in [each.field for each in report.differences]


def test_only_the_chosen_turns_are_compared(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    recording = converse(lm, store, turns=4, **SAMPLED)

    report = tt.retrace(recording, lm, turns=[2, 4])

    assert [turn.turn for turn in report.turns] == [2, 4]
    assert report.verdict is tt.Verdict.EXACT


def test_a_run_that_was_read_in_part_is_refused(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    part = load_run(converse(lm, store), [2])
    with pytest.raises(tt.ReplayError, match="needs the whole run"):
        tt.retrace(part, lm)


def test_a_turn_with_a_time_limit_is_refused_in_one_line(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recording = converse(lm, store, turns=1, max_time=600.0)
    with pytest.raises(tt.ReplayError, match=r"turn 1 was generated with max_time.*`verify`") as it:
        tt.retrace(recording, lm)
    assert "\n" not in str(it.value)


def test_a_strangers_recording_starts_no_million_threads(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    case = Case(converse(lm, store), lm, store)

    def change(event: Event) -> Event:
        return replace(event, threads=10**9) if isinstance(event, RunStarted) else event

    report = tt.retrace(rerecord(case, change).recording, lm)

    assert report.verdict is tt.Verdict.EXACT


def test_chunks_that_no_system_prompt_has_are_refused_in_one_line(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    case = Case(converse(lm, store), lm, store)

    def change(event: Event) -> Event:
        return replace(event, chunks=(0,)) if isinstance(event, SystemPromptCached) else event

    with pytest.raises(tt.RecordingError, match="cannot have been forwarded in chunks of 0"):
        tt.retrace(rerecord(case, change).recording, lm)


@pytest.fixture
def rounding_lm(make_lm: Callable[..., tt.LoadedModel]) -> tt.LoadedModel:
    """Return a model whose last bits depend on the lengths of its forwards.

    Which models those are depends on the kind of CPU.
    """
    ids = torch.arange(5, 45)[None]
    for dtype, family in itertools.product(
        (torch.bfloat16, torch.float16, torch.float32), ("llama", "qwen3", "gpt2")
    ):
        lm = make_lm(family, dtype=dtype)
        with torch.no_grad():
            whole, parts = lm.model(ids).logits, lm.model(ids[:, :1]).logits
        if not torch.equal(whole[:, :1], parts):
            return lm
    raise AssertionError("no model rounds otherwise in a forward of another length")


def test_other_lengths_of_a_prefill_are_found(
    rounding_lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """The last bits depend on the schedule: a recording cannot claim another one."""
    lm = rounding_lm
    case = Case(converse(lm, store), lm, store)

    def change(event: Event) -> Event:
        if isinstance(event, PrefillCompleted) and event.turn == 2:
            return replace(event, chunks=(1,) * sum(event.chunks))
        return event

    report = tt.retrace(rerecord(case, change).recording, lm)

    assert not report.passes
    assert report.rows[0].turn == 2


class Downwards(LogitsProcessor):
    """Makes later tokens of the vocabulary less likely."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return scores - torch.linspace(0, 3, scores.shape[-1])


def test_processors_of_the_user_are_needed_for_their_turns_alone(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=7) as run:
        run.chat("One?", max_new_tokens=6, do_sample=False)
        own = LogitsProcessorList([Downwards()])
        run.chat("Two?", max_new_tokens=6, logits_processor=own, **SAMPLED)
    recording = store.recording(run.run_id)

    assert tt.retrace(recording, lm, turns=[1]).verdict is tt.Verdict.EXACT
    with pytest.raises(tt.ReplayError, match="Downwards"):
        tt.retrace(recording, lm)
    report = tt.retrace(recording, lm, processors=lambda turn: LogitsProcessorList([Downwards()]))
    assert report.verdict is tt.Verdict.EXACT, render(report)


def test_calls_of_generate_are_retraced(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    recorder = tt.Recorder(store)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    for seed in (1, 2):
        ids = lm.model.generate(
            ids,
            custom_generate=tt.decode,
            recorder=recorder,
            text_tokenizer=lm.tokenizer,
            seed=seed,
            max_new_tokens=6,
            **SAMPLED,
        )

    assert tt.retrace(store.recording(recorder.run_id), lm).verdict is tt.Verdict.EXACT


def test_states_given_by_the_caller_are_the_cause_where_rows_differ(
    rounding_lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    lm = rounding_lm
    other = tt.ManualGenerator(lm.model, lm.tokenizer, prefill_chunk_tokens=2)
    first = other.generate(list(range(5, 40)), max_new_tokens=9, do_sample=False, return_cache=True)
    given = first["past_key_values"]
    assert given is not None
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, tt.Recorder(store))
    generator.generate([*given.ids, 7, 8], max_new_tokens=6, past_key_values=given, seed=3)
    recording = store.recording(store.summaries()[-1].run_id)
    turn = recording.turns()[0]
    assert turn.cache is not None
    assert turn.cache.source == CacheSource.GIVEN

    report = tt.retrace(recording, lm)

    assert report.verdict in (tt.Verdict.DRIFTED, tt.Verdict.DIVERGED)
    assert report.causes[0].name == CauseKind.SCHEDULE
    assert "the caller's past_key_values" in report.causes[0].sentence


def test_where_a_recording_does_not_name_its_machine_the_floor_decides(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    elsewhere: Callable[[tt.LoadedModel], tt.LoadedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """0.1.0 recorded no processor."""

    def change(event: Event) -> Event:
        if not isinstance(event, RunStarted):
            return event
        known = {name: value for name, value in event.environment.items() if name != "cpu"}
        return replace(event, environment=known)

    noisy = elsewhere(lm)
    monkeypatch.undo()
    recording = rerecord(Case(converse(lm, store), lm, store), change).recording

    assert tt.retrace(recording, lm).verdict is tt.Verdict.EXACT
    report = tt.retrace(recording, noisy)
    assert report.verdict in (tt.Verdict.VERIFIED, tt.Verdict.NEAR_TIE), render(report)
    assert report.rows


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_attention_kernel_is_set_as_recorded_and_restored(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore, dtype: torch.dtype
) -> None:
    lm, eager = make_lm("llama", dtype=dtype), make_lm("llama", dtype=dtype)
    recording = converse(lm, store)
    eager.model.set_attn_implementation("eager")

    report = tt.retrace(recording, eager)

    assert report.verdict is tt.Verdict.EXACT
    assert report.differences == ()
    assert eager.model.config._attn_implementation == "eager"


class KernelNoise(TapeHook):
    """Noise of another machine's kernels, which is no code that a fingerprint shows."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


@pytest.fixture
def elsewhere(
    make_lm: Callable[..., tt.LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> Callable[[tt.LoadedModel], tt.LoadedModel]:
    """Return a function that makes the model of another machine, with a noise of its own."""

    def other(lm: tt.LoadedModel) -> tt.LoadedModel:
        noisy = tt.LoadedModel(copy.deepcopy(lm.model), lm.tokenizer, lm.name)
        noise = 1e-6 if lm.model.dtype is torch.float32 else 1e-2
        kernel = KernelNoise(lambda module, args, output: output * (1 + noise))
        noisy.model.lm_head.register_forward_hook(kernel)
        here = fingerprints.environment()
        monkeypatch.setattr(
            machine, "environment", lambda device: {**here, "cpu": "another processor"}
        )
        return noisy

    return other


def test_on_another_machine_the_floor_decides_and_the_machine_is_known(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    elsewhere: Callable[[tt.LoadedModel], tt.LoadedModel],
) -> None:
    report = tt.retrace(converse(lm, store), elsewhere(lm))

    assert report.verdict in (tt.Verdict.VERIFIED, tt.Verdict.NEAR_TIE), render(report)
    assert report.rows
    assert report.floor is not None
    assert report.floor.version.startswith("float32")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_16_bits_without_a_floor_another_machine_is_incomparable(
    make_lm: Callable[..., tt.LoadedModel],
    store: DatabaseStore,
    dtype: torch.dtype,
    elsewhere: Callable[[tt.LoadedModel], tt.LoadedModel],
) -> None:
    lm = make_lm("llama", dtype=dtype)
    recording = converse(lm, store)

    report = tt.retrace(recording, elsewhere(lm))

    assert report.rows
    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert "calibrate" in report.reason


def test_the_same_noise_on_the_machine_that_recorded_is_a_fault(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    elsewhere: Callable[[tt.LoadedModel], tt.LoadedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording, noisy = converse(lm, store), elsewhere(lm)
    monkeypatch.undo()

    report = tt.retrace(recording, noisy)

    assert not report.passes
    assert report.causes


def test_a_probe_a_calibration_and_a_capture_leave_the_bits_as_they_are(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm, fresh = (make_lm("llama", dtype=torch.bfloat16) for _ in range(2))
    recording = converse(lm, store, **SAMPLED)
    tt.calibrate(recording, lm)
    tt.capture(lm.model, [5, 6, 7], 1)

    for each in (lm, fresh):
        assert tt.retrace(recording, each).verdict is tt.Verdict.EXACT


def test_units_in_the_last_place_count_representable_numbers() -> None:
    one = torch.tensor(1.0)
    following = torch.nextafter(one, torch.tensor(2.0)).item()

    assert ulps_between(1.0, 1.0) == 0
    assert ulps_between(1.0, following) == ulps_between(-1.0, -following) == 1
    assert ulps_between(0.0, -0.0) == 0
    assert ulps_between(1e-45, -1e-45) == 2
    assert ulps_between(1.0, 1.0 + 2**-10, "e") == 1
