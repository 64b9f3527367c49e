"""`model.generate(..., custom_generate=tokentape.decode)` gives the output of `generate`."""

from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    MaxTimeCriteria,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    StopStringCriteria,
)

import tokentape as tt
from benchmarks.parity.matrix import CONFIGS
from benchmarks.tiny_models import random_ids
from tokentape.generation import hf
from tokentape.store import DatabaseStore

PROMPT = torch.tensor([random_ids(30, 1)])


def generate(lm: tt.LoadedModel, prompt: torch.Tensor = PROMPT, **settings: Any) -> Any:
    return lm.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        **{"max_new_tokens": 12, "do_sample": False} | settings,
    )


def recorded(lm: tt.LoadedModel, store: DatabaseStore, **settings: Any) -> tuple[Any, tt.Recording]:
    with tt.Recorder(store) as recorder:
        output = generate(
            lm,
            custom_generate=tt.decode,
            recorder=recorder,
            text_tokenizer=lm.tokenizer,
            **settings,
        )
    return output, store.recording(recorder.run_id)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_output_is_that_of_generate_and_the_recording_is_replayed(
    config: str, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    settings = CONFIGS[config] | {"return_dict_in_generate": True, "output_logits": True}
    settings |= {"output_scores": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = generate(lm, **settings)
        end_state = torch.get_rng_state()
        torch.manual_seed(7)
        output, recording = recorded(lm, store, **settings)
        assert torch.equal(torch.get_rng_state(), end_state)

    assert torch.equal(output.sequences, expected.sequences)
    assert all(map(torch.equal, output.logits, expected.logits))
    assert all(map(torch.equal, output.scores, expected.scores))
    assert hf.cache_of(output).get_seq_length() == hf.cache_of(expected).get_seq_length()
    (turn,) = recording.turns()
    assert turn.started.unreplayable == ()
    assert turn.reply_ids == tuple(expected.sequences[0, 30:].tolist())
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT


def test_the_weights_manifest_is_stored_here_too(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    started = recorded(lm, store)[1].started()

    assert store.blob(started.weights_sha256) == lm.identity.weights.payload


def test_without_a_recorder_the_output_is_that_of_generate(lm: tt.LoadedModel) -> None:
    assert torch.equal(generate(lm, custom_generate=tt.decode), generate(lm))


def test_a_seed_leaves_torchs_generator_unchanged(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    before = torch.get_rng_state()
    output, recording = recorded(lm, store, do_sample=True, seed=5)
    ours = tt.ManualGenerator(lm.model, lm.tokenizer).generate(
        PROMPT, max_new_tokens=12, do_sample=True, seed=5
    )

    assert torch.equal(torch.get_rng_state(), before)
    assert output[0, 30:].tolist() == ours["generated_tokens"]
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT


def test_draws_from_an_unknown_state_are_recorded_as_not_replayable(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        torch.rand(3)
        _, recording = recorded(lm, store, do_sample=True)

    (turn,) = recording.turns()
    assert turn.started.seed is None
    assert turn.started.unreplayable == ("global_random_state",)
    with pytest.raises(tt.ReplayError, match="global_random_state"):
        tt.verify(recording, lm)


def test_calls_are_turns_and_a_passed_cache_is_reused(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Recorder(store) as recorder:
        cache = DynamicCache(config=lm.model.config)
        ids = PROMPT
        for _ in range(3):
            ids = generate(
                lm,
                ids,
                custom_generate=tt.decode,
                recorder=recorder,
                text_tokenizer=lm.tokenizer,
                **hf.cache_argument(lm.model, cache),
            )
            ids = torch.cat([ids, torch.tensor([[5, 6]])], dim=-1)
    recording = store.recording(recorder.run_id)
    turns = recording.turns()

    assert [turn.number for turn in turns] == [1, 2, 3]
    assert [turn.cache.reused_tokens for turn in turns if turn.cache] == [0, 41, 55]
    assert turns[-1].prompt_ids == tuple(ids[0, : len(turns[-1].prompt_ids)].tolist())
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED


def test_a_stop_string_among_the_criteria_stops_and_is_replayed(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    plain = generate(lm)[0, 30:].tolist()
    letters = [text for token in plain if (text := lm.tokenizer.decode([token])).isascii()]
    stop = letters[-1]
    criteria = StoppingCriteriaList([StopStringCriteria(lm.tokenizer, [stop])])
    _, recording = recorded(lm, store, stopping_criteria=criteria)
    (turn,) = recording.turns()

    assert turn.finished is not None
    assert turn.finished.stop_reason == "stop_string"
    assert turn.started.unreplayable == ()
    assert turn.started.sampling["stop_strings"] == [stop]
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED


class Doubles(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores * 2.0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"logits_processor": LogitsProcessorList([Doubles()])}, ("Doubles",)),
        (
            {"logits_processor": LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)])},
            ("RepetitionPenaltyLogitsProcessor",),
        ),
        ({"stopping_criteria": StoppingCriteriaList([MaxTimeCriteria(1e9)])}, ("max_time",)),
        ({"max_time": 1e9}, ("max_time",)),
        ({"guidance_scale": 1.5}, ("guidance_scale",)),
    ],
)
def test_objects_that_settings_cannot_rebuild_are_named(
    settings: dict[str, Any], named: tuple[str, ...], lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    _, recording = recorded(lm, store, **settings)
    (turn,) = recording.turns()

    assert set(turn.started.unreplayable) >= set(named)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"num_beams": 2}, "one sequence"),
        ({"num_return_sequences": 2, "do_sample": True}, "one sequence"),
        ({"use_cache": False}, "without a cache"),
        ({"attention_mask": torch.tensor([[0] * 5 + [1] * 25])}, "padding"),
        ({"text_tokenizer": None}, "text_tokenizer"),
    ],
)
def test_calls_that_cannot_be_recorded_are_refused(
    settings: dict[str, Any], complaint: str, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    asked = {"text_tokenizer": lm.tokenizer, "attention_mask": torch.ones_like(PROMPT)}
    with tt.Recorder(store) as recorder, pytest.raises(tt.ModelError, match=complaint):
        lm.model.generate(
            PROMPT, custom_generate=tt.decode, recorder=recorder, max_new_tokens=4,
            **asked | settings,
        )  # fmt: skip

    assert store.summaries() == []


@pytest.mark.parametrize("held", [30, 35])
def test_a_cache_that_covers_the_prompt_is_refused_where_generate_is_wrong(
    held: int, lm: tt.LoadedModel
) -> None:
    cache = DynamicCache(config=lm.model.config)
    with torch.no_grad():
        lm.model(torch.tensor([random_ids(held, 1)]), **hf.cache_argument(lm.model, cache))
    with pytest.raises(tt.PromptError, match=f"the cache holds {held} tokens"):
        generate(lm, custom_generate=tt.decode, **hf.cache_argument(lm.model, cache))
