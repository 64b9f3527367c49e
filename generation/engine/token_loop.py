"""A token at a time until something stops it: the loop of `GenerationMixin._sample`, recorded."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from tokentape.generation import hf
from tokentape.generation.callbacks import GenerationState, StateObserver, TokenCallback
from tokentape.generation.engine.sampling import Measures, draw, measure
from tokentape.recorder.events import Event, TokenSampled
from tokentape.recorder.events.turn import TOOL_CALL
from tokentape.recorder.numbers import to_microseconds

# How many of the likeliest tokens are recorded of a step.
CANDIDATES = 5

KeepStep = Callable[[torch.Tensor, torch.Tensor], None]
"""Called with the raw logits and the processed scores of a step, each of shape (1, vocab)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoop:
    """How tokens are chosen, and who is told of them. `generator` is None for greedy.

    `pauses` is asked with the ids of the reply whether the turn pauses there; `between` is called
    between tokens, when each is recorded. `hidden_states` gives what layers gave in the forward
    before.
    """

    turn: int
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    generator: torch.Generator | None
    candidates: int
    record: Callable[[Event], None]
    first_step: int = 0
    callback: TokenCallback | None = None
    observer: StateObserver | None = None
    hidden_states: Callable[[], Mapping[str, torch.Tensor]] = dict
    pauses: Callable[[Sequence[int]], bool] | None = None
    between: Callable[[], None] | None = None
    keep_step: KeepStep | None = None

    def run(
        self, decoder: hf.Decoder, logits: torch.Tensor, sampled: Sequence[int] = ()
    ) -> tuple[tuple[int, ...], str]:
        """Decode from the logits after the prompt: the ids of the reply, and why it stopped.

        `sampled` are those of the reply that are there already, at the end of the decoder's ids.
        """
        prompt_tokens = decoder.ids.shape[1] - len(sampled)
        token_ids = list(sampled)
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
                    step=self.first_step + len(token_ids),
                    position=prompt_tokens + len(token_ids),
                    token_id=measures.token_id,
                    logprob=measures.logprob,
                    logprob_processed=measures.logprob_processed,
                    entropy=measures.entropy,
                    top_gap=measures.top_gap,
                    duration_ms=to_microseconds((time.perf_counter() - began) * 1000.0),
                    top_ids=measures.top_ids,
                    top_logprobs=measures.top_logprobs,
                )
            )
            token_ids.append(measures.token_id)
            stop_reason = self._stop_reason(measures, token_ids)
            self._tell(decoder, measures, logits, token_ids, stop_reason is not None)
            if stop_reason is not None:
                return tuple(token_ids), stop_reason
            if self.between is not None:
                self.between()
            began = time.perf_counter()
            logits = decoder.forward_last()

    def _stop_reason(self, measures: Measures, token_ids: Sequence[int]) -> str | None:
        stop_reason = hf.stop_reason_of(self.criteria, measures.stops)
        if stop_reason is None and self.pauses is not None and self.pauses(token_ids):
            return TOOL_CALL
        return stop_reason

    def _tell(
        self,
        decoder: hf.Decoder,
        measures: Measures,
        logits: torch.Tensor,
        token_ids: Sequence[int],
        finished: bool,
    ) -> None:
        if self.callback is not None:
            self.callback(measures.token_id, logits[0])
        if self.observer is not None:
            self.observer(
                GenerationState(
                    input_ids=decoder.ids,
                    past_key_values=decoder.cache,
                    attention_mask=torch.ones_like(decoder.ids),
                    generated_tokens=tuple(token_ids),
                    finished=finished,
                    step=self.first_step + len(token_ids) - 1,
                    logits=logits[0],
                    entropy=measures.entropy,
                    hidden_states=self.hidden_states(),
                )
            )
