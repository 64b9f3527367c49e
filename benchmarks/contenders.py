"""tokentape and Hugging Face `generate`, asked the same and watched by the same clock."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import Cache

import tokentape as tt
from benchmarks.forwards import Forwards, MeasuredForward, prefill_of, step_ms, tokens_of
from benchmarks.machine import now_s
from tokentape.recorder.events import Event, TokenSampled
from tokentape.store import DatabaseStore

SEED = 7
SAMPLERS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_p": 0.9},
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A turn, as the outside saw it."""

    token_ids: list[int]
    seconds: float
    forwards: list[MeasuredForward]

    @property
    def prefill_tokens(self) -> int:
        return tokens_of(prefill_of(self.forwards, len(self.token_ids)))

    @property
    def step_ms(self) -> list[float]:
        return step_ms(self.forwards, len(self.token_ids))


class TimedRecorder(tt.Recorder):
    """Knows what each sampled token took to be kept."""

    def __init__(self, log: tt.EventLog) -> None:
        super().__init__(log)
        self.token_ms: list[float] = []

    def record(self, event: Event) -> tt.Envelope:
        began = time.perf_counter()
        envelope = super().record(event)
        if isinstance(event, TokenSampled):
            self.token_ms.append((time.perf_counter() - began) * 1000.0)
        return envelope


def recording_file(path: Path) -> DatabaseStore:
    """A store in a file, as a run has it."""
    store = tt.open_store(f"sqlite:///{path}")
    assert isinstance(store, DatabaseStore)
    return store


@dataclass(slots=True)
class EventList:
    """Keeps events in memory."""

    events: list[Any] = field(default_factory=list)

    def append(self, envelope: tt.Envelope, *, durable: bool) -> None:
        self.events.append(envelope.event)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        """No tool runs in a benchmark."""


class Tokentape:
    """The engine with its defaults: five candidates, chunks of 512 tokens, every event kept."""

    def __init__(self, lm: tt.LoadedModel, forwards: Forwards, log: tt.EventLog) -> None:
        self._forwards = forwards
        self.recorder = TimedRecorder(log)
        self.generator = tt.ManualGenerator(
            lm.model, lm.tokenizer, self.recorder, name="benchmark", identity=lm.identity
        )

    def cache_system_prompt(self, text: str) -> tuple[int, float]:
        """The tokens that were forwarded for it, and the seconds."""
        self._forwards.take()
        began = now_s(self.generator.model.device)
        self.generator.cache_system_prompt(text)
        seconds = now_s(self.generator.model.device) - began
        return tokens_of(self._forwards.take()), seconds

    def ask(self, ids: Sequence[int], new_tokens: int, **settings: Any) -> Answer:
        self._forwards.take()
        began = now_s(self.generator.model.device)
        result = self.generator.generate(
            list(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            seed=SEED,
            **settings,
        )
        seconds = now_s(self.generator.model.device) - began
        return Answer(result["generated_tokens"], seconds, self._forwards.take())


class HuggingFace:
    """`generate` as it is documented; `cache` is what a caller carries from call to call."""

    def __init__(self, lm: tt.LoadedModel, forwards: Forwards) -> None:
        self._model: Any = lm.model
        self._forwards = forwards
        self.cache: Cache | None = None

    def ask(
        self, ids: Sequence[int], new_tokens: int, *, carried: bool = False, **settings: Any
    ) -> Answer:
        """With `carried` the call goes on with the cache that the last one left."""
        prompt = torch.tensor([list(ids)], device=self._model.device)
        given = {"past_key_values": self.cache} if carried and self.cache is not None else {}
        self._forwards.take()
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
        if carried:
            self.cache = output.past_key_values
        token_ids: list[int] = output.sequences[0, len(ids) :].tolist()
        return Answer(token_ids, seconds, self._forwards.take())

    def copy_of_cache(self) -> Cache | None:
        with torch.no_grad():
            return copy.deepcopy(self.cache)
