"""The recorded, live, shown and rebuilt texts of a reply are the same, for every tokenizer."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

import tokentape as tt
from benchmarks.tiny_models import tiny_model
from tests.generation.text_tokenizers import MAKERS, TEXTS, byte_fallback, text_tokenizer
from tokentape.generation.engine import turn_recorder
from tokentape.generation.history.decoding import decode_after
from tokentape.generation.history.incremental_decoder import IncrementalDecoder
from tokentape.recorder.events import TurnFinished
from tokentape.replay.recorded.reply_texts import is_text_of
from tokentape.store import DatabaseStore

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Forced(LogitsProcessor):
    """Makes a model reply with these ids, whatever its prompt of so many tokens is."""

    def __init__(self, prompt_tokens: int, ids: Sequence[int]) -> None:
        self._prompt_tokens, self._ids = prompt_tokens, ids

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        forced = torch.full_like(scores, -torch.inf)
        step = input_ids.shape[1] - self._prompt_tokens
        forced[:, self._ids[min(step, len(self._ids) - 1)]] = 0.0
        return forced  # type: ignore[return-value]


def reply(
    lm: tt.LoadedModel, store: DatabaseStore, prompt: list[int], ids: list[int], **more: Any
) -> tt.Recording:
    """Record the model's reply with these ids."""
    processors = LogitsProcessorList([Forced(len(prompt), ids)])
    with tt.Recorder(store) as recorder:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder, model_name="m")
        generator.generate(
            torch.tensor([prompt]),
            max_new_tokens=len(ids),
            logits_processor=processors,
            eos_token_id=None,
            **more,
        )
    return store.recording(recorder.run_id)


@pytest.mark.parametrize("name", MAKERS)
def test_recorded_live_and_rebuilt_texts_are_the_same(name: str, store: DatabaseStore) -> None:
    tokenizer = text_tokenizer(name)
    lm = tiny_model("llama", tokenizer, num_hidden_layers=1, vocab_size=max(len(tokenizer), 272))
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    prompts = [*filter(None, encoded), list(range(len(tokenizer)))[-3:]]
    for prompt, ids in zip(prompts, reversed(prompts), strict=True):
        live = IncrementalDecoder(tokenizer, prompt)
        pieces: list[str] = []

        def show(token_id: int, logits: torch.Tensor, live: Any = live, seen: Any = pieces) -> None:
            live.add(token_id)
            seen.append(live.take())

        recording = reply(lm, store, prompt, ids, callback=show)
        (turn,) = tt.rebuild(recording).turns
        recorded = turn.reply_text

        assert turn.reply_ids == tuple(ids)
        assert recorded == decode_after(tokenizer, prompt, ids)
        assert "".join(pieces) + live.take_rest() == recorded
        assert tt.turns_df(store, recording.run_id)["text"].tolist() == [recorded]


def as_0_1_0_did(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int], *, ended: bool) -> Any:
    before = tokenizer.decode(list(prompt[-4:]))
    after = tokenizer.decode([*prompt[-4:], *ids])
    return after[len(before) :], ""


def test_a_text_that_an_earlier_release_decoded_otherwise_is_no_divergence(
    store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = byte_fallback()
    lm = tiny_model("llama", tokenizer, num_hidden_layers=1)
    prompt, ids = tokenizer.encode("ሰላም"), tokenizer.encode("ነው abc")[1:]
    with monkeypatch.context() as patched:
        patched.setattr(turn_recorder, "decode_reply", as_0_1_0_did)
        recording = reply(lm, store, prompt, ids)
    (finished,) = [
        each.event for each in recording.events() if isinstance(each.event, TurnFinished)
    ]
    processors = LogitsProcessorList([Forced(len(prompt), ids)])
    report = tt.verify(recording, lm, processors=lambda turn: processors)

    assert finished.text == REPLACEMENT * 6 + " abc"
    assert tt.rebuild(recording).turns[0].reply_text == finished.text
    assert is_text_of(tokenizer, finished.text, prompt, ids)
    assert not is_text_of(tokenizer, "ነው abd", prompt, ids)
    assert report.passes, report.reason
    assert not report.altered


def test_the_bytes_of_a_divergence_are_spelled(store: DatabaseStore) -> None:
    tokenizer = byte_fallback()
    lm = tiny_model("llama", tokenizer, num_hidden_layers=1)
    prompt, ids = tokenizer.encode("ሰላም"), tokenizer.encode("ነው abc")[1:]
    recording = reply(lm, store, prompt, ids)
    other = tokenizer.encode("ላው abc")[1:]
    processors = LogitsProcessorList([Forced(len(prompt), other)])
    first = tt.verify(recording, lm, processors=lambda turn: processors).divergences[0]

    assert (first.recorded.text, first.replayed.text) == ("<0x8A>", "<0x88>")
    assert first.text_before.endswith("ም<0xE1>")
    assert first.text_after == "ነው abc"
