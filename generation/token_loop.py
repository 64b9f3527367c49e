"""A token at a time until something stops it: the loop of `GenerationMixin._sample`, recorded."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from generation import hf
from generation.sampling import draw, measure
from generation.state import GenerationState, StateObserver, TokenCallback
from recorder.events import Event, TokenSampled
from recorder.numbers import to_microseconds

# How many of the likeliest tokens are recorded of a step.
CANDIDATES = 5

KeepStep = Callable[[torch.Tensor, torch.Tensor], None]
"""Called with the raw logits and the processed scores of a step, each of shape (1, vocab)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoop:
    """How tokens are chosen, and who is told of them. `generator` is None for greedy."""

    turn: int
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    generator: torch.Generator | None
    candidates: int
    record: Callable[[Event], None]
    callback: TokenCallback | None = None
    observer: StateObserver | None = None
    keep_step: KeepStep | None = None

    def run(self, decoder: hf.Decoder, logits: torch.Tensor) -> tuple[tuple[int, ...], str]:
        """Decode from the logits after the prompt: the ids of the reply, and why it stopped."""
        prompt_tokens = decoder.ids.shape[1]
        token_ids: list[int] = []
        began = time.perf_counter()
        while True:
            scores = hf.process(self.processors, decoder.ids, logits)
            if self.keep_step is not None:
                self.keep_step(logits, scores)
            drawn = draw(logits, scores, generator=self.generator)
            decoder.append(drawn.token)
            stops = hf.stop_flags(self.criteria, decoder.ids)
            measures = measure(logits, drawn, stops, candidates=self.candidates)
            self.record(
                TokenSampled(
                    turn=self.turn,
                    step=len(token_ids),
                    position=prompt_tokens + len(token_ids),
                    token_id=measures.token_id,
                    logprob=measures.logprob,
                    logprob_processed=measures.logprob_processed,
                    entropy=measures.entropy,
                    top_gap=measures.top_gap,
                    duration_ms=to_microseconds((time.perf_counter() - began) * 1000.0),
                    candidate_ids=measures.candidate_ids,
                    candidate_logprobs=measures.candidate_logprobs,
                )
            )
            token_ids.append(measures.token_id)
            stop_reason = hf.stop_reason_of(self.criteria, measures.stops)
            self._tell(decoder, measures.token_id, logits, token_ids, stop_reason is not None)
            if stop_reason is not None:
                return tuple(token_ids), stop_reason
            began = time.perf_counter()
            logits = decoder.forward_last()

    def _tell(
        self,
        decoder: hf.Decoder,
        token_id: int,
        logits: torch.Tensor,
        token_ids: list[int],
        finished: bool,
    ) -> None:
        if self.callback is not None:
            self.callback(token_id, logits[0])
        if self.observer is not None:
            self.observer(
                GenerationState(
                    input_ids=decoder.ids,
                    past_key_values=decoder.cache,
                    attention_mask=torch.ones_like(decoder.ids),
                    generated_tokens=tuple(token_ids),
                    finished=finished,
                )
            )
