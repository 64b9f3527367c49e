"""Stop reasons, callbacks, refusals and recorded settings of a single call of `generate`."""

from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

import tokentape as tt
from tokentape.generation import GenerationResult
from tokentape.recorder.events import RunStarted, TurnFinished, TurnStarted
from tokentape.store import DatabaseStore


class Forces(LogitsProcessor):
    """A processor that forces these ids, one after the other."""

    def __init__(self, ids: list[int], prompt_tokens: int) -> None:
        self._ids = ids
        self._prompt_tokens = prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -float("inf"))
        forced[:, self._ids[input_ids.shape[1] - self._prompt_tokens]] = 0.0
        return forced


def said(lm: tt.LoadedModel, text: str, **settings: Any) -> GenerationResult:
    """Return the result of a reply that is `text` and the end-of-sequence token."""
    ids = [*lm.tokenizer.encode(text, add_special_tokens=False), lm.tokenizer.eos_token_id]
    return tt.ManualGenerator(lm.model, lm.tokenizer).generate(
        [5, 6, 7],
        do_sample=False,
        logits_processor=LogitsProcessorList([Forces(ids, 3)]),
        **settings,
    )


def test_the_end_of_sequence_token_stops_the_reply_and_is_not_in_its_text(
    lm: tt.LoadedModel,
) -> None:
    result = said(lm, "Hi")

    assert result["stop_reason"] == "eos"
    assert result["generated_text"] == "Hi"
    assert result["generated_tokens"][-1] == lm.tokenizer.eos_token_id
    assert result["num_tokens"] == 3


def test_max_new_tokens_stops_the_reply(lm: tt.LoadedModel) -> None:
    result = said(lm, "Hello there", max_new_tokens=5)

    assert (result["stop_reason"], result["generated_text"]) == ("max_new_tokens", "Hello")


def test_the_end_of_sequence_is_the_reason_also_at_the_limit(lm: tt.LoadedModel) -> None:
    assert said(lm, "Hello", max_new_tokens=6)["stop_reason"] == "eos"


def test_a_stop_string_stops_and_stays_in_the_text(lm: tt.LoadedModel) -> None:
    result = said(lm, "one. two.", stop_strings=["."])

    assert (result["stop_reason"], result["generated_text"]) == ("stop_string", "one.")


def test_one_of_several_end_tokens_stops(lm: tt.LoadedModel) -> None:
    bang = lm.tokenizer.encode("!", add_special_tokens=False)[0]
    result = said(lm, "Hi! there", eos_token_id=[2, bang])

    assert (result["stop_reason"], result["generated_text"]) == ("eos", "Hi")


def test_a_temperature_of_zero_is_greedy(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    zero = generator.generate("Hello", temperature=0, do_sample=True, max_new_tokens=8)
    greedy = generator.generate("Hello", do_sample=False, max_new_tokens=8)

    assert zero["generated_tokens"] == greedy["generated_tokens"]
    assert zero["seed"] is None


def test_the_callback_sees_each_token_and_its_raw_logits(lm: tt.LoadedModel) -> None:
    seen: list[tuple[int, torch.Size, torch.dtype]] = []
    result = tt.ManualGenerator(lm.model, lm.tokenizer).generate(
        "Hello",
        max_new_tokens=4,
        callback=lambda token_id, logits: seen.append((token_id, logits.shape, logits.dtype)),
    )

    assert [token_id for token_id, _, _ in seen] == result["generated_tokens"]
    assert {(shape, dtype) for _, shape, dtype in seen} == {(torch.Size([272]), torch.float32)}


@pytest.mark.parametrize(
    ("prompt", "settings", "complaint"),
    [
        ("", {}, "the prompt is empty"),
        ("  \n", {}, "the prompt is empty"),
        ([], {}, "the prompt is empty"),
        ([5] * 2000, {"max_new_tokens": 100}, "do not fit into the model's context of 2048"),
        ("word " * 1000, {}, "do not fit"),
        ("Hi", {"max_new_tokens": 0}, "at least one"),
        ("Hi", {"num_beams": 4}, "beam search is not supported"),
        ("Hi", {"num_return_sequences": 2, "do_sample": True}, "num_return_sequences"),
        ("Hi", {"temperatur": 1.0}, "no setting 'temperatur'"),
        ("Hi", {"temperature": -1.0, "do_sample": True}, "rejects these settings"),
    ],
)
def test_an_invalid_request_is_refused_and_nothing_is_recorded(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    prompt: Any,
    settings: dict[str, Any],
    complaint: str,
) -> None:
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
    with pytest.raises(tt.ModelError, match=complaint) as caught:
        generator.generate(prompt, **settings)

    assert "\n" not in str(caught.value)
    assert store.summaries() == []
    assert generator.turn == 0


@pytest.mark.parametrize("prompt", ["", "x" * 3000])
def test_a_refused_system_prompt_leaves_the_old_one(
    lm: tt.LoadedModel, store: DatabaseStore, prompt: str
) -> None:
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
    generator.cache_system_prompt("Be kind.")
    before = list(store.recording(recorder.run_id).events())
    with pytest.raises(tt.PromptError):
        generator.cache_system_prompt(prompt)

    assert list(store.recording(recorder.run_id).events()) == before
    assert generator.generate("Hi", max_new_tokens=2)["cache"].reason == "extends"


def test_a_model_in_training_mode_is_refused(lm: tt.LoadedModel) -> None:
    lm.model.train()
    with pytest.raises(tt.ModelError, match=r"model\.eval"):
        tt.ManualGenerator(lm.model, lm.tokenizer)


def test_nan_logits_raise_a_model_error(lm: tt.LoadedModel) -> None:
    with torch.no_grad():
        lm.model.lm_head.weight[7] = float("nan")
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    for settings in ({"do_sample": False}, {"do_sample": True}):
        with pytest.raises(tt.ModelError, match="logits"):
            generator.generate("Hi", max_new_tokens=2, **settings)


def test_the_effective_settings_are_recorded_with_the_defaults_of_the_library(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder, name="n", model_name="m")
    generator.generate("Hi", do_sample=True, temperature=0.5, max_new_tokens=2, seed=3)
    events = [each.event for each in store.recording(recorder.run_id).events()]
    started = next(event for event in events if isinstance(event, TurnStarted))

    assert isinstance(events[0], RunStarted)
    assert started.sampling["top_k"] == 50
    assert started.sampling["temperature"] == 0.5
    assert started.seed == 3
    assert isinstance(events[-1], TurnFinished)
    assert events[-1].generator_sha256


def test_the_callers_processors_are_recorded_as_not_replayable(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
    generator.generate(
        [5, 6], max_new_tokens=2, logits_processor=LogitsProcessorList([Forces([9, 9, 9], 2)])
    )
    recording = store.recording(recorder.run_id)

    assert recording.turns()[0].started.unreplayable == ("Forces",)
    with pytest.raises(tt.ReplayError, match="Forces"):
        tt.verify(recording, lm)


def test_text_without_a_chat_template_is_continued_unchanged(make_lm: Any) -> None:
    lm = make_lm()
    lm.tokenizer.chat_template, before = None, lm.tokenizer.chat_template
    try:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer)
        generator.cache_system_prompt("Once upon a time")
        result = generator.generate(" there was", max_new_tokens=2)
    finally:
        lm.tokenizer.chat_template = before

    assert result["prompt_tokens"] == len("Once upon a time there was")
    assert result["cache"].reused_tokens == len("Once upon a time")
