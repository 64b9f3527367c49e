"""Verdicts of `verify` and `regenerate` on correct and on faulty recordings."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
)

import tokentape as tt
from benchmarks.replay.fault_case import Case, rerecord
from tests.replay.conversations import converse
from tokentape.recorder.events import Event, TurnStarted
from tokentape.replay.reports.terminal import render
from tokentape.store import DatabaseStore

HONEST: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "penalties": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "minimum": {"do_sample": False, "min_new_tokens": 10},
    "hot": {"do_sample": True, "temperature": 1.7, "top_k": 0},
    "cold": {"do_sample": True, "temperature": 0.1},
    "top-k": {"do_sample": True, "top_k": 3},
    "top-p": {"do_sample": True, "top_p": 0.7},
    "min-p": {"do_sample": True, "min_p": 0.05},
    "typical": {"do_sample": True, "typical_p": 0.6},
    "everything": {
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.9,
        "repetition_penalty": 1.2,
        "suppress_tokens": [50, 51],
    },
}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "mistral", "gemma3"])
@pytest.mark.parametrize("settings", HONEST)
def test_an_honest_recording_is_verified_on_every_family(
    family: str, settings: str, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = make_lm(family)
    report = tt.verify(converse(lm, store, **HONEST[settings]), lm)

    assert report.verdict is tt.Verdict.VERIFIED, render(report)


@pytest.mark.parametrize("settings", HONEST)
def test_generate_produces_the_same_tokens(
    settings: str, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    before = torch.get_rng_state()
    report = tt.regenerate(converse(lm, store, **HONEST[settings]), lm)

    assert report.verdict is tt.Verdict.EXACT, render(report)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "settings",
    [{"do_sample": True, "top_k": None}, {"do_sample": False, "max_time": 0.0}],
    ids=["a default that was set aside", "a clock"],
)
def test_generate_is_given_the_recorded_settings_and_no_others(
    settings: dict[str, Any], lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recording = converse(lm, store, **settings)
    lm.model.generation_config.forced_eos_token_id = 2
    lm.model.generation_config.repetition_penalty = 3.0
    report = tt.regenerate(recording, lm)

    assert report.verdict is tt.Verdict.EXACT, render(report)
    assert lm.model.generation_config.repetition_penalty == 3.0
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED


@pytest.mark.parametrize("family", ["mamba", "qwen3-next"])
def test_recurrent_states_have_no_known_floor(
    family: str, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = make_lm(family)
    recording = converse(lm, store, do_sample=False)
    report = tt.verify(recording, lm)

    assert {turn.cache.decision for turn in recording.turns() if turn.cache} == {"hit"}
    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert "no noise floor" in report.reason
    # The logits are nevertheless the recorded ones, within float32.
    assert max(turn.logprob_difference_max for turn in report.turns) < 1e-3
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT


def test_a_plain_generator_can_be_verified_too(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with tt.Recorder(store) as recorder:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        generator.cache_system_prompt("Be kind.")
        for prompt in ("One", [9, 8, 7, 6], "Two"):
            generator.generate(prompt, max_new_tokens=6, do_sample=True)
    report = tt.verify(store.recording(recorder.run_id), lm)

    assert report.verdict is tt.Verdict.VERIFIED, render(report)
    assert len(report.turns) == 3


def test_a_turn_that_was_cut_off_is_verified_as_far_as_it_went(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
    seen: list[int] = []

    def stop(token_id: int, logits: torch.Tensor) -> None:
        seen.append(token_id)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator.generate("Hi", max_new_tokens=20, do_sample=True, callback=stop)
    recording = store.recording(recorder.run_id)
    (turn,) = recording.turns()

    assert list(turn.reply_ids) == seen
    assert turn.finished is None
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT


def test_some_turns_can_be_verified_alone(
    lm: tt.LoadedModel, store: DatabaseStore, record: Callable[..., tt.Recording]
) -> None:
    recording = record(lm, store)
    report = tt.verify(recording, lm, turns=[2, 4])

    assert [turn.turn for turn in report.turns] == [2, 4]
    assert report.passes
    with pytest.raises(tt.NothingToReplayError, match="no turn 9"):
        tt.verify(recording, lm, turns=[9])


def test_a_recording_without_tokens_has_nothing_to_replay(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as run:
        pass
    with pytest.raises(tt.NothingToReplayError, match="no token"):
        tt.verify(store.recording(run.run_id), lm)


def test_another_model_is_incomparable_and_still_measured(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    recording = converse(make_lm("llama"), store, do_sample=False)
    report = tt.verify(recording, make_lm("llama", seed=5))

    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert report.reason == "not what was recorded: weights"
    assert all(turn.verdict is tt.Verdict.DIVERGED for turn in report.turns)
    assert tt.regenerate(recording, make_lm("llama", seed=5)).verdict is tt.Verdict.INCOMPARABLE


def test_a_model_with_a_smaller_vocabulary_is_refused(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    recording = converse(make_lm("llama"), store, do_sample=False)
    small = make_lm("llama")
    small.model.resize_token_embeddings(100)
    with pytest.raises(tt.RecordingError, match="and the model has 100"):
        tt.verify(recording, small)


def test_half_precision_is_never_called_verified(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    lm.model.to(torch.bfloat16)
    report = tt.verify(converse(lm, store, do_sample=False), lm)

    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert "no noise floor is known for this model in bfloat16" in report.reason
    assert report.floor is None


def test_without_a_floor_regenerate_compares_tokens_only(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    """The noise of bfloat16 is above the floor of float32, and is not a drift."""
    noise = []
    # Which of these models has noise depends on the kind of CPU.
    for family in ("llama", "gpt2", "gemma3"):
        lm = make_lm(family, seed=1)
        lm.model.to(torch.bfloat16)
        report = tt.regenerate(converse(lm, store, turns=4, do_sample=False), lm)
        noise += [turn.logprob_difference_max for turn in report.turns]

        assert report.floor is None
        assert tt.Verdict.DRIFTED not in {turn.verdict for turn in report.turns}
    assert max(noise) > 1e-3


def test_a_history_that_was_rendered_again_is_a_branch_of_its_own(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
    generator.generate([5, 6, 7, 8, 9], max_new_tokens=6, do_sample=False)
    generator.generate([5, 6, 7, 20, 21], max_new_tokens=6, do_sample=False)
    recording = store.recording(recorder.run_id)

    assert recording.turns()[1].started.kept_tokens == 3
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED


def test_a_divergence_shows_both_sides(
    lm: tt.LoadedModel, store: DatabaseStore, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    report = tt.verify(converse(lm, store, do_sample=False), make_lm("llama", seed=5))
    first = report.first
    printed = render(report)

    assert first is not None
    assert (first.turn, first.step, first.kind) == (1, 0, "token")
    assert first.margin is not None
    assert first.margin > 1e-3
    assert len(first.recorded_top) == len(first.replayed_top) == 5
    assert first.text_before.endswith("<|im_start|>assistant\n")
    for part in ("INCOMPARABLE", "first divergence: turn 1, token 0", "repeat: tokentape verify"):
        assert part in printed
    assert report.to_dict()["first"]["recorded"]["token_id"] == first.recorded.token_id


def test_an_ignored_fingerprint_is_named_and_does_not_count(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    made = make_lm("llama")
    recording = converse(made, store, do_sample=False)
    lm = tt.LoadedModel(made.model, copy.deepcopy(made.tokenizer), made.name)
    lm.tokenizer.chat_template += "{# another #}"
    named: list[str] = []
    report = tt.verify(
        recording,
        lm,
        ignore=["template"],
        on_fingerprint_difference=lambda found: named.extend(
            each.field for each in found if each.forbids
        ),
    )

    assert tt.verify(recording, lm).verdict is tt.Verdict.INCOMPARABLE
    assert report.verdict is tt.Verdict.VERIFIED
    assert report.ignored == ("template",)
    assert report.to_dict()["ignored"] == ["template"]
    assert named == ["template"]
    assert tt.regenerate(recording, lm, ignore=["template"]).verdict is tt.Verdict.EXACT
    with pytest.raises(tt.ReplayError, match="cannot ignore 'temperature'"):
        tt.verify(recording, lm, ignore=["temperature"])


def test_turns_with_user_processors_replay_if_these_are_given_again(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    class Favouring(LogitsProcessor):
        """A processor with a state: each call favours another token."""

        def __init__(self, by: float) -> None:
            self.by = by
            self.calls = 0

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            scores[:, 20 + self.calls] += self.by
            return scores

    ids = lm.tokenizer("Once upon a time", return_tensors="pt").input_ids
    with tt.Recorder(store) as recorder:
        lm.model.generate(
            ids,
            max_new_tokens=12,
            do_sample=True,
            logits_processor=LogitsProcessorList([Favouring(4.0)]),
            custom_generate=tt.decode,
            seed=5,
            recorder=recorder,
            text_tokenizer=lm.tokenizer,
        )
    recording = store.recording(recorder.run_id)

    def verified(by: float) -> tt.Report:
        return tt.verify(
            recording, lm, processors=lambda turn: LogitsProcessorList([Favouring(by)])
        )

    with pytest.raises(tt.ReplayError, match="generated with Favouring, which no event describes"):
        tt.verify(recording, lm)
    assert verified(4.0).verdict is tt.Verdict.VERIFIED, render(verified(4.0))
    assert verified(3.9).verdict is tt.Verdict.DIVERGED
    assert verified(3.9).causes[0].name == "sampler"

    def regenerated(by: float) -> tt.Report:
        return tt.regenerate(
            recording, lm, processors=lambda turn: LogitsProcessorList([Favouring(by)])
        )

    assert regenerated(4.0).verdict is tt.Verdict.EXACT, render(regenerated(4.0))
    assert regenerated(3.0).verdict is tt.Verdict.DIVERGED


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"custom_generate": "somewhere", "trust_remote_code": True}, "turns have no setting"),
        ({"unheard_of": 1}, "turns have no setting 'unheard_of'"),
        ({"num_beams": 4}, "turns cannot be generated by beam search"),
        ({"do_sample": "yes"}, "do_sample must be true or false"),
        ({"bad_words_ids": [[99999]]}, r"settings of turn 1 cannot be|refuses turn 1"),
    ],
)
def test_settings_that_no_turn_had_are_refused_before_anything_runs(
    settings: dict[str, Any], complaint: str, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Recordings can come from anywhere, and some settings of `generate` run code."""
    case = Case(converse(lm, store, turns=1, do_sample=False), lm, store)

    def change(event: Event) -> Event:
        if isinstance(event, TurnStarted):
            return dataclasses.replace(event, sampling={**event.sampling, **settings})
        return event

    forged = rerecord(case, change).recording
    for replay in (tt.verify, tt.regenerate):
        with pytest.raises(tt.TokentapeError, match=complaint):
            replay(forged, lm)


def test_a_watermark_of_either_kind_is_replayed(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    marks = (
        WatermarkingConfig(greenlist_ratio=0.4, bias=2.0),
        SynthIDTextWatermarkingConfig(keys=[1, 2, 3, 4, 5], ngram_len=3),
    )
    for mark in marks:
        recording = converse(lm, store, do_sample=True, watermarking_config=mark)

        assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
        assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_model_whose_numbers_are_broken_is_said_to_be(
    broken: float, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    recording = converse(make_lm("llama"), store, do_sample=True)
    lm = make_lm("llama")
    with torch.no_grad():
        lm.model.lm_head.weight[0] = broken
    with pytest.raises(tt.ModelError, match="logits are not finite in turn 1"):
        tt.verify(recording, lm, ignore="weights")
    with pytest.raises(tt.TokentapeError, match=r"refuses turn 1|not finite"):
        tt.regenerate(recording, lm, ignore="weights")
    with pytest.raises(tt.ModelError, match="not finite"):
        tt.calibrate(recording, lm)
