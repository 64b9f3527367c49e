"""tokentape and Hugging Face `generate` with the same requests, timed by the same clock."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

import tokentape as tt
from benchmarks.generation.forward_timer import (
    ForwardTimer,
    TimedForward,
    prefill_of,
    step_ms,
    tokens_of,
)
from benchmarks.machine import now_s
from tokentape.generation import hf
from tokentape.recorder.events import Event, TokenSampled

SEED = 7
SAMPLERS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_p": 0.9},
}


@dataclass(frozen=True, slots=True)
class TimedReply:
    """A reply, with the time and the forwards that it took."""

    token_ids: list[int]
    seconds: float
    forwards: list[TimedForward]

    @property
    def prefill_tokens(self) -> int:
        """Return how many tokens were forwarded before the first generated one."""
        return tokens_of(prefill_of(self.forwards, len(self.token_ids)))

    @property
    def step_ms(self) -> list[float]:
        """Return the milliseconds of each decoding step."""
        return step_ms(self.forwards, len(self.token_ids))


class TimedRecorder(tt.Recorder):
    """A recorder that measures how long each `TokenSampled` takes to record."""

    def __init__(self, log: tt.EventLog) -> None:
        super().__init__(log)
        self.token_ms: list[float] = []

    def record(self, event: Event) -> tt.Envelope:
        """Record an event, and append the milliseconds to `token_ms` if it is a token."""
        began = time.perf_counter()
        envelope = super().record(event)
        if isinstance(event, TokenSampled):
            self.token_ms.append((time.perf_counter() - began) * 1000.0)
        return envelope


class TokentapeEngine:
    """tokentape with its defaults: chunks of 512 tokens, the top five log-probabilities, and
    every event recorded.
    """

    def __init__(self, lm: tt.LoadedModel, forwards: ForwardTimer, log: tt.EventLog) -> None:
        self._forwards = forwards
        self.recorder = TimedRecorder(log)
        self.generator = tt.ManualGenerator(
            lm.model, lm.tokenizer, self.recorder, name="benchmark", identity=lm.identity
        )

    def cache_system_prompt(self, text: str) -> tuple[int, float]:
        """Return how many tokens were forwarded for the prompt, and the seconds."""
        self._forwards.drain()
        began = now_s(self.generator.model.device)
        self.generator.cache_system_prompt(text)
        seconds = now_s(self.generator.model.device) - began
        return tokens_of(self._forwards.drain()), seconds

    def time_reply(self, ids: Sequence[int], new_tokens: int, **settings: Any) -> TimedReply:
        """Generate exactly `new_tokens` tokens after the prompt `ids`."""
        self._forwards.drain()
        began = now_s(self.generator.model.device)
        result = self.generator.generate(
            list(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            seed=SEED,
            **settings,
        )
        seconds = now_s(self.generator.model.device) - began
        return TimedReply(result["generated_tokens"], seconds, self._forwards.drain())


class GenerateEngine:
    """Hugging Face `generate` as documented; `cache` is passed from call to call on request."""

    def __init__(self, lm: tt.LoadedModel, forwards: ForwardTimer) -> None:
        self._model: Any = lm.model
        self._forwards = forwards
        self.cache: Cache | None = None

    def time_reply(
        self, ids: Sequence[int], new_tokens: int, *, reuse_cache: bool = False, **settings: Any
    ) -> TimedReply:
        """Generate exactly `new_tokens` tokens after the prompt `ids`.

        If `reuse_cache`, pass the cache of the last such call to `generate`, and store the new one.
        """
        prompt = torch.tensor([list(ids)], device=self._model.device)
        reused = self.cache if reuse_cache else None
        given = {} if reused is None else hf.cache_argument(self._model, reused)
        self._forwards.drain()
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            began = now_s(self._model.device)
            output = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                return_dict_in_generate=True,
                **settings,
                **given,
            )
            seconds = now_s(self._model.device) - began
        if reuse_cache:
            self.cache = hf.cache_of(output)
        token_ids: list[int] = output.sequences[0, len(ids) :].tolist()
        return TimedReply(token_ids, seconds, self._forwards.drain())

    def copy_of_cache(self) -> Cache | None:
        """Return a deep copy of the cache: `generate` extends a cache in place."""
        with torch.no_grad():
            return copy.deepcopy(self.cache)
