"""Requests that are refused before the turn."""

from typing import Any

import pytest

import tokentape as tt
from tests.generation.cold_runs import GREEDY, PROMPT
from tokentape.store import DatabaseStore


@pytest.mark.parametrize(
    ("prompt", "settings"),
    [
        ([5.7], {}),
        ([-1], {}),
        ([272], {}),
        (None, {}),
        ({"input_ids": [1]}, {}),
        ("Hi", {"max_length": 5}),
        ("Hi", {"max_new_tokens": None}),
        ("Hi", {"seed": 2**64, "do_sample": True}),
        ("Hi", {"seed": 1.5, "do_sample": True}),
    ],
)
def test_odd_requests_are_refused_before_the_turn(
    lm: tt.LoadedModel, store: DatabaseStore, prompt: Any, settings: dict[str, Any]
) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, tt.Recorder(store))
    with pytest.raises(tt.ModelError):
        generator.generate(prompt, **settings)

    assert store.summaries() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("get_weight_statistics", float("nan")),
        ("get_weight_statistics", "half \ud800"),
        ("half \ud800", "all"),
    ],
)
def test_arguments_that_no_event_can_hold_are_refused(
    lm: tt.LoadedModel, store: DatabaseStore, name: str, value: Any
) -> None:
    call = tt.ToolCall(name=name, arguments={"layer_name": value})
    with tt.Investigation(
        lm, store=store, name="t", system_prompt="Be kind.", tools=tt.default_tools(lm)
    ) as run:
        with pytest.raises(tt.ToolError, match="cannot be recorded"):
            run.chat("Look.", tool_calls=[call])
        run.chat("Go on.", max_new_tokens=2)

    assert store.summaries()[0].status == "finished"


@pytest.mark.parametrize("name", ["template_settings", "metadata", "plan"])
@pytest.mark.parametrize("value", [object(), float("nan"), "half \ud800"])
def test_settings_that_no_event_can_hold_are_refused(
    lm: tt.LoadedModel, store: DatabaseStore, name: str, value: Any
) -> None:
    settings: Any = {name: {"key": value}}
    with pytest.raises(tt.ModelError, match=f"{name} cannot be recorded"):
        tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", **settings)

    assert store.summaries() == []


@pytest.mark.parametrize(
    "settings",
    [
        {"callback": 5},
        {"observer": "x"},
        {"logits_processor": [5]},
        {"stopping_criteria": [5]},
        {"prefill_chunk_size": -1},
        {"prefill_chunk_size": 1.5},
        {"max_time": "x"},
        {"guidance_scale": "x"},
        {"forced_eos_token_id": 10**6},
        {"bad_words_ids": [[10**6]]},
        {"seed": True, "do_sample": True},
        {"exponential_decay_length_penalty": []},
        {"watermarking_config": 5, "do_sample": True},
        {"generation_config": {}},
        {"stop_strings": [5]},
        {"past_key_values": 5},
    ],
    ids=str,
)
def test_a_setting_that_would_break_the_turn_is_refused_before_it(
    settings: dict[str, Any], lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recorder = tt.Recorder(store)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
    generator.generate(PROMPT, **GREEDY)
    before = list(store.recording(recorder.run_id).events())
    with pytest.raises(tt.ModelError) as caught:
        generator.generate([*PROMPT, 7], **GREEDY | settings)

    assert "\n" not in str(caught.value)
    assert list(store.recording(recorder.run_id).events()) == before
    assert generator.turn == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"prefill_chunk_tokens": 0},
        {"prefill_chunk_tokens": "x"},
        {"prefill_chunk_tokens": True},
        {"cache_bytes": None},
        {"cache_bytes": float("nan")},
        {"cache_bytes": -1},
        {"top_logprobs": 1.5},
        {"prefix_folder": 5},
        {"prefix_folder": "a\0b"},
        {"threads": True},
        {"threads": 10**30},
        {"threads": 0},
        {"template_settings": 5},
        {"name": b"x"},
        {"name": "half \ud800"},
        {"seed": "x"},
        {"history": "both"},
        {"history": None},
    ],
    ids=repr,
)
def test_an_engine_that_could_not_run_is_not_made(
    settings: dict[str, Any], lm: tt.LoadedModel
) -> None:
    with pytest.raises(tt.ModelError) as caught:
        tt.ManualGenerator(lm.model, lm.tokenizer, **settings)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompt", [None, 5, [], b"a", "half \ud800"], ids=repr)
def test_what_is_no_text_is_no_system_prompt(prompt: Any, lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    with pytest.raises(tt.ModelError):
        generator.cache_system_prompt(prompt)


def test_only_a_conversation_can_be_switched_to(lm: tt.LoadedModel) -> None:
    with pytest.raises(tt.ModelError, match="takes a conversation, not a NoneType"):
        tt.ManualGenerator(lm.model, lm.tokenizer).switch(None)  # type: ignore[arg-type]
