"""A sequence needs nothing but logits: how these are computed is not its business."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tokentape.generation import hf
from tokentape.generation.engine.token_sequence import TokenSequence, decode_reply
from tokentape.generation.engine.turn import turn_settings
from tokentape.generation.engine.turn_recorder import TurnRecorder
from tokentape.recorder.events import TokenSampled
from tokentape.store import DatabaseStore

SETTINGS: dict[str, Any] = {"max_new_tokens": 8, "do_sample": True, "temperature": 0.8}


def sequence_of(
    lm: tt.LoadedModel, ids: list[int], seed: int, cache: Cache, events: TurnRecorder
) -> TokenSequence:
    input_ids = torch.tensor([ids])
    config = turn_settings(lm.model, seed=seed, **SETTINGS).config
    prepared = hf.prepare(lm.model, lm.tokenizer, config, input_ids)
    return TokenSequence(
        ids=input_ids,
        prompt_tokens=len(ids),
        processors=prepared.processors,
        criteria=prepared.criteria,
        generator=torch.Generator().manual_seed(seed),
        top_logprobs=5,
        events=events,
        cache=lambda: cache,
    )


@torch.no_grad()
def test_two_sequences_can_be_stepped_over_one_forward_of_two_rows(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Each draws with its own generator and is recorded in its own run."""
    prompts = [random_ids(9, seed) for seed in (1, 2)]
    alone = [
        tt.ManualGenerator(lm.model, lm.tokenizer).generate(ids, seed=seed, **SETTINGS)
        for ids, seed in zip(prompts, (7, 8), strict=True)
    ]
    cache = DynamicCache(config=lm.model.config)
    recorded: list[list[TokenSampled]] = [[], []]
    running = [
        sequence_of(lm, ids, seed, cache, TurnRecorder(recorder=recorder_into(events), turn=1))
        for ids, seed, events in zip(prompts, (7, 8), recorded, strict=True)
    ]
    stops: list[str | None] = [None, None]
    ids = torch.tensor(prompts)
    while None in stops:
        logits = lm.model(input_ids=ids, **hf.cache_argument(lm.model, cache)).logits[:, -1].float()
        for row, sequence in enumerate(running):
            if stops[row] is None:
                stops[row] = sequence.step(logits[row : row + 1], began=0.0)
        ids = torch.cat([sequence.ids[:, -1:] for sequence in running])

    assert [each.token_ids for each in running] == [each["generated_tokens"] for each in alone]
    assert stops == [each["stop_reason"] for each in alone]
    assert [[each.token_id for each in events] for events in recorded] == [
        each["generated_tokens"] for each in alone
    ]


class Replayed:
    """A backend without a model: it returns rows of logits that are there already."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = iter(rows[:, None])
        self.cache = DynamicCache()

    def prefill(
        self, chunk_tokens: int | None = None, *, one_by_one: bool = False
    ) -> tuple[torch.Tensor, tuple[int, ...]]:
        return next(self._rows), ()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return next(self._rows)

    def holds(self, cache: Cache, tokens: int) -> bool:
        return False


@torch.no_grad()
def test_a_reply_can_be_decoded_from_logits_that_are_there_already(lm: tt.LoadedModel) -> None:
    ids = random_ids(9, 3)
    alone = tt.ManualGenerator(lm.model, lm.tokenizer).generate(ids, seed=9, **SETTINGS)
    reply = alone["generated_tokens"]
    rows = lm.model(input_ids=torch.tensor([[*ids, *reply]])).logits[0, len(ids) - 1 : -1].float()
    backend = Replayed(rows)
    sequence = sequence_of(lm, ids, 9, backend.cache, TurnRecorder(recorder=None, turn=1))
    logits, _ = backend.prefill()
    stop_reason = decode_reply(backend, sequence, logits)

    assert (sequence.token_ids, stop_reason) == (reply, alone["stop_reason"])


def test_what_is_called_between_tokens_can_end_the_reply(lm: tt.LoadedModel) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    backend = Replayed(torch.randn(4, lm.model.config.vocab_size))
    sequence = sequence_of(lm, [5, 6], 1, backend.cache, TurnRecorder(recorder=None, turn=1))
    logits, _ = backend.prefill()
    with pytest.raises(KeyboardInterrupt):
        decode_reply(backend, sequence, logits, between_tokens=stop)

    assert len(sequence.token_ids) == 1


def recorder_into(events: list[TokenSampled]) -> Any:
    class Recorder:
        def record(self, event: TokenSampled) -> None:
            events.append(event)

    return Recorder()
