"""The texts of tokens are recorded with them: once for each id of a run, without gaps."""

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

import tokentape as tt
from tests.store.made_families import record_family
from tokentape.generation.history.spelling import spell_token, spell_tokens
from tokentape.recorder.events import TokensSpelled
from tokentape.store import DatabaseStore

TAPES = Path(__file__).parents[1] / "recordings"


def spelled_by(store: DatabaseStore, run_id: str) -> Counter[str]:
    """Return how often each id is spelled by the run's own events."""
    return Counter(
        token_id
        for record in store.recording(run_id).records()
        if record.kind == "TokensSpelled" and isinstance(record.body, str)
        for token_id in json.loads(record.body)["texts"]
    )


def test_each_token_of_a_family_of_runs_has_its_text_and_is_spelled_once(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """The parent was killed in a turn and resumed; the forks share turns with it."""
    for run_id in record_family(lm, store):
        for frame in (tt.tokens_df(store, run_id), tt.top_logprobs_df(store, run_id)):
            expected = [spell_token(lm.tokenizer, each) for each in frame["token_id"]]

            assert frame["text"].tolist() == expected
        assert set(spelled_by(store, run_id).values()) == {1}


def test_a_turn_has_its_texts_where_another_turn_spelled_them(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    run_id, *_ = record_family(lm, store)
    whole = tt.tokens_df(store)
    last = whole[(whole["run_id"] == run_id) & (whole["turn"] == 3)].reset_index(drop=True)

    pd.testing.assert_frame_equal(tt.tokens_df(store, run_id, turns=3), last)


@pytest.mark.parametrize("error", [RuntimeError("enough"), KeyboardInterrupt()])
def test_the_tokens_of_a_turn_that_was_broken_off_have_texts(
    lm: tt.LoadedModel, store: DatabaseStore, error: BaseException
) -> None:
    def stop(token_id: int, logits: object) -> None:
        raise error

    run = tt.Investigation(lm, store=store, name="broken", system_prompt="Be kind.", seed=8)
    with suppress(type(error)), run:
        run.chat("Is it?", max_new_tokens=4, callback=stop)
    frame = tt.top_logprobs_df(store, run.run_id)

    assert len(frame) == 5
    assert frame["text"].notna().all()
    assert not tt.check(store, run.run_id).faults


def test_the_tokens_at_which_cache_and_prompt_diverge_have_texts(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with (recorder := tt.Recorder(store)):
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        for prompt in ("Be kind.", "Be Zind."):
            generator.generate(prompt, max_new_tokens=2)
    cached, prompted = lm.tokenizer("kZ")["input_ids"]
    decided = tt.cache_df(store, recorder.run_id).iloc[-1]

    assert (decided["divergence_cached_id"], decided["divergence_prompt_id"]) == (cached, prompted)
    assert {str(cached), str(prompted)} <= set(spelled_by(store, recorder.run_id))


def test_a_redacted_run_has_no_texts_of_tokens(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    recorder = tt.Recorder(store, redactor=lambda text: text.replace("kind", "X"))
    with recorder:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        generator.generate("Be kind.", max_new_tokens=3)

    assert spelled_by(store, recorder.run_id) == Counter()
    assert tt.tokens_df(store, recorder.run_id)["text"].isna().all()


def test_generate_with_our_decoding_records_texts(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    recorder = tt.Recorder(store)
    ids = lm.tokenizer("Be kind.", return_tensors="pt")["input_ids"]
    lm.model.generate(
        ids,
        custom_generate=tt.decode,
        recorder=recorder,
        text_tokenizer=lm.tokenizer,
        max_new_tokens=3,
    )

    assert tt.tokens_df(store, recorder.run_id)["text"].notna().all()


def test_a_recording_without_texts_has_none_in_the_frame() -> None:
    with tt.open_store(TAPES / "0.1.0.tape") as store:
        frame = tt.tokens_df(store, dtype_backend="pyarrow")

    assert len(frame) > 0
    assert frame["text"].isna().all()


def test_bytes_without_a_character_and_unknown_ids_have_texts_that_can_be_stored(
    lm: tt.LoadedModel,
) -> None:
    texts = spell_tokens(lm.tokenizer, range(len(lm.tokenizer) + 3))

    assert all(isinstance(each, str) and each.encode() is not None for each in texts.values())
    assert any(each.startswith("<0x") for each in texts.values())
    assert TokensSpelled(turn=1, texts=texts).texts == texts


def test_a_tokenizer_that_fails_at_an_id_leaves_its_text_empty(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    spell_tokens(lm.tokenizer, [5])
    decode = type(lm.tokenizer).decode

    def failing(tokenizer: object, ids: list[int], **more: object) -> str:
        if 7 in ids:
            raise IndexError("no such id")
        return str(decode(tokenizer, ids, **more))

    monkeypatch.setattr(type(lm.tokenizer), "decode", failing)
    assert spell_tokens(lm.tokenizer, [5, 7]) == {"5": spell_token(lm.tokenizer, 5), "7": ""}


@pytest.mark.parametrize("token_id", ["-1", "x", "", "²", str(2**31)])
def test_a_text_is_that_of_a_token_id(token_id: str) -> None:
    with pytest.raises(ValueError, match="texts must be those of token ids"):
        TokensSpelled(turn=1, texts={token_id: "a"})


def test_the_tokens_of_prompts_have_texts(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with tt.Investigation(lm, store=store, name="probe", system_prompt="Be kind.") as run:
        run.chat("What of ÿ?", max_new_tokens=2)
    (turn,) = store.recording(run.run_id).turns()

    assert {str(each) for each in turn.prompt_ids} <= set(spelled_by(store, run.run_id))
