"""How many tokens a prefill forwards at once: the default of the device, or the user's choice."""

import pytest
import torch

import tokentape as tt
from tokentape.generation import run_settings
from tokentape.generation.engine import prefill
from tokentape.store import DatabaseStore

QUESTION = "How many tokens does a forward of this prompt have, and how many forwards?"


@pytest.fixture(autouse=True)
def _small_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_settings, "PREFILL_CHUNK_TOKENS", 16)
    monkeypatch.setattr(run_settings, "PREFILL_CHUNK_TOKENS_CUDA", 64)
    monkeypatch.setattr(prefill, "_FULL_CHUNKS_TOKENS", 64)


def prefilled(
    lm: tt.LoadedModel, store: DatabaseStore, **settings: int | None
) -> tuple[object, tuple[int, ...], int]:
    """Return the recorded setting, the chunks of one prompt, and its length."""
    with tt.Investigation(
        lm, store=store, name="x", system_prompt="", context_tokens=400, **settings
    ) as run:
        run.chat(QUESTION, max_new_tokens=1)
    recording = store.recording(run.run_id)
    turn = recording.turns()[0]
    assert turn.prefill is not None
    chosen = recording.started().settings["prefill_chunk_tokens"]
    return chosen, turn.prefill.chunks, len(turn.prompt_ids)


def test_the_default_is_lowered_for_a_long_prompt(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, chunks, length = prefilled(lm, store)
    assert (chosen, sum(chunks)) == (16, length)
    assert length > 64
    assert chunks[0] == 16 * 64 // length < 16

    monkeypatch.setattr(prefill, "_FULL_CHUNKS_TOKENS", length)
    assert prefilled(lm, store)[1][0] == 16


@pytest.mark.parametrize("tokens", [8, 17, 50])
def test_a_chosen_number_is_not_lowered(
    tokens: int, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    chosen, chunks, length = prefilled(lm, store, prefill_chunk_tokens=tokens)
    rest = length % tokens

    assert chosen == tokens
    assert chunks == (tokens,) * (length // tokens) + ((rest,) if rest else ())


def test_none_forwards_the_prompt_at_once(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    assert prefilled(lm, store, prefill_chunk_tokens=None)[:2] == (
        None,
        (prefilled(lm, store)[2],),
    )


def test_the_default_on_cuda_is_larger_and_recorded(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (run_settings, prefill):
        monkeypatch.setattr(module, "cuda_device", lambda model: torch.device("cuda"))
    chosen, chunks, length = prefilled(lm, store)

    assert chosen == 64
    assert chunks[0] == 64 * 64 // length > 16
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder := tt.Recorder(store))
    generator.generate(QUESTION, max_new_tokens=1)
    assert store.recording(recorder.run_id).started().settings["prefill_chunk_tokens"] == 64


def test_a_resumed_run_has_the_chunks_that_it_began_with(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.") as run:
        run.chat("One?", max_new_tokens=1)
    for module in (run_settings, prefill):
        monkeypatch.setattr(module, "cuda_device", lambda model: torch.device("cuda"))
    with tt.Investigation.resume(store, run.run_id, lm) as resumed:
        resumed.chat(QUESTION, max_new_tokens=1)
    turn = store.recording(run.run_id).turns()[-1]

    assert turn.prefill is not None
    assert turn.prefill.chunks[0] == 16
