"""Generation configs as files of models have them: own fields, beams, odd values."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

import tokentape as tt
from tokentape.generation import hf
from tokentape.recorder.codec import decode_fields
from tokentape.recorder.events import Event, TurnStarted
from tokentape.store import DatabaseStore

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OWN: dict[str, Any] = {
    "chat_format": "chatml",
    "user_token_id": 195,
    "custom_generate": "somewhere",
    "trust_remote_code": True,
    "nested": {"a": [1, {"b": None}]},
}
NOT_JSON: dict[str, Any] = {"kind": torch.float16, "unknown": float("nan"), "thing": object()}
OTHER_MODES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"num_beams": 4, "early_stopping": True, "length_penalty": 2.0}, {"num_beams": 1}),
    ({"num_beam_groups": 2, "num_beams": 4, "diversity_penalty": 0.5}, {"num_beams": 1}),
    ({"num_return_sequences": 3}, {"num_return_sequences": 1}),
    ({"penalty_alpha": 0.6, "top_k": 4}, {"penalty_alpha": None}),
    ({"penalty_alpha": 0.6, "top_k": 4}, {"do_sample": True}),
    ({"prompt_lookup_num_tokens": 3}, {"prompt_lookup_num_tokens": None}),
    ({"dola_layers": "low"}, {"dola_layers": None}),
    ({"use_mtp": True}, {"use_mtp": False}),
    ({"token_healing": True}, {"token_healing": False}),
]


def configure(lm: tt.LoadedModel, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        setattr(lm.model.generation_config, name, value)


def converse(lm: tt.LoadedModel, store: DatabaseStore, **changes: Any) -> str:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=7) as run:
        run.chat("One?", max_new_tokens=3, **changes)
    return run.run_id


@given(
    fields=st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), JSON, max_size=4),
    sampling=st.fixed_dictionaries(
        {"temperature": st.floats(0.1, 5.0), "top_k": st.integers(1, 100)}
    ),
)
@settings(max_examples=60)
def test_every_field_of_a_config_is_read_back(
    fields: dict[str, Any], sampling: dict[str, Any]
) -> None:
    """One that `generate` reads is a setting of the turn, any other is a field of its own."""
    known = vars(GenerationConfig())  # type: ignore[no-untyped-call]
    own = {
        name: value
        for name, value in fields.items()
        if name not in known and not hasattr(GenerationConfig, name) and name[0] != "_"
    }
    config = GenerationConfig(do_sample=True, **sampling, **own)  # type: ignore[no-untyped-call]

    recorded = json.loads(json.dumps([hf.recordable(config), hf.own_settings(config)]))
    again = hf.recorded_config(*recorded)

    assert recorded[1] == {name: value for name, value in own.items() if value is not None}
    assert [hf.recordable(again), hf.own_settings(again)] == recorded


def test_a_model_with_fields_of_its_own_is_recorded_replayed_resumed_and_forked(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    configure(lm, OWN | NOT_JSON)
    run_id = converse(lm, store)

    recording = store.recording(run_id)
    started = recording.turns()[0].started
    assert started.own_settings == OWN
    assert not started.sampling.keys() & (OWN | NOT_JSON).keys()
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT
    with tt.Investigation.resume(store, run_id, lm) as resumed:
        resumed.chat("Two?", max_new_tokens=2)
    with tt.Investigation.fork(store, run_id, lm, at_turn=2) as fork:
        fork.retake(recording.turns()[0], message="Otherwise?")
    assert store.recording(fork.run_id).turns()[-1].started.own_settings == OWN


def test_a_recording_of_0_1_0_with_such_fields_can_be_replayed(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Version 1 has them among the settings."""
    fields = {name: getattr(turn_of(lm, store), name) for name in TurnStarted.__slots__}
    old = fields | {"sampling": {**fields["sampling"], **OWN}}
    del old["own_settings"]

    event: Event = decode_fields("TurnStarted", 1, old)

    assert isinstance(event, TurnStarted)
    assert event.own_settings == OWN
    assert event.sampling == fields["sampling"]
    hf.recorded_config(event.sampling, event.own_settings)


def turn_of(lm: tt.LoadedModel, store: DatabaseStore) -> TurnStarted:
    return store.recording(converse(lm, store)).turns()[0].started


@pytest.mark.parametrize(("fields", "override"), OTHER_MODES)
def test_another_mode_of_a_model_is_refused_unless_it_is_overridden(
    fields: dict[str, Any], override: dict[str, Any], lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    if "use_mtp" in fields and not hasattr(lm.model.generation_config, "use_mtp"):
        pytest.skip("this release of transformers has no such mode")
    configure(lm, fields)
    with pytest.raises(tt.ModelError) as refusal:
        converse(lm, store)
    assert "\n" not in str(refusal.value)
    (refused,) = store.summaries()
    assert store.recording(refused.run_id).turns() == []

    recording = store.recording(converse(lm, store, **override))
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT


@pytest.mark.parametrize(
    "fields",
    [
        {"use_cache": False},
        {"suppress_tokens": torch.tensor([5, 6])},
        {"sequence_bias": {(5,): 1.5}},
        {"max_length": 20, "min_length": 1},
        {"return_dict_in_generate": True, "output_scores": True},
    ],
)
def test_settings_of_a_file_that_tokentape_once_refused_are_recorded(
    fields: dict[str, Any], lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    configure(lm, fields)

    recording = store.recording(converse(lm, store))

    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT


@pytest.mark.parametrize(
    "sampling", [{"early_stopping": "perhaps"}, {"watermarking_config": {"greenlist_ratio": 0.3}}]
)
def test_settings_that_would_be_read_back_otherwise_are_refused(sampling: dict[str, Any]) -> None:
    with pytest.raises(tt.ModelError, match="cannot be recorded"):
        hf.check_can_be_read_back(sampling)
