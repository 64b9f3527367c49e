"""Milliseconds of a decoding step, recorded by tokentape and by Hugging Face `generate`."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

import tokentape as tt
from benchmarks.generation.engines import (
    SAMPLERS,
    GenerateEngine,
    TimedReply,
    TokentapeEngine,
)
from benchmarks.generation.forward_timer import ForwardTimer
from benchmarks.prompts import prompt_ids
from benchmarks.stores import open_file_store
from tokentape.generation.engine.sampling import draw, measure
from tokentape.generation.run_settings import TOP_LOGPROBS
from tokentape.recorder.events import RunStarted, TokenSampled
from tokentape.store import DatabaseStore

SHORT_TOKENS, LONG_TOKENS = 64, 5_000
NEW_TOKENS, ROUNDS = 64, 7
_REPEATS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeComparison:
    """The median step of each round, of tokentape and of `generate`."""

    context_tokens: int
    sampler: str
    our_ms: tuple[float, ...]
    their_ms: tuple[float, ...]
    same_tokens: bool

    @property
    def ratios(self) -> tuple[float, ...]:
        """Return the time of `generate` over that of tokentape, for each round."""
        return tuple(their / our for our, their in zip(self.our_ms, self.their_ms, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingCost:
    """What recording a token costs: medians, in milliseconds.

    Between two forwards of the model the caches of the processor hold the weights; alone, token
    after token, they hold what recording needs.
    """

    step_ms: float
    """The whole step of tokentape."""
    record_ms: float
    """Recording the token's event, within the steps."""
    record_alone_ms: float
    """Recording the same events without a model."""
    measure_alone_ms: float
    """Computing log-probabilities and entropy from logits, without a model."""

    @property
    def record_share(self) -> float:
        """Return recording's share of a step, 0 to 1."""
        return self.record_ms / self.step_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeFigures:
    """The figures at one context length: a comparison for each sampler, and recording's cost."""

    comparisons: tuple[DecodeComparison, ...]
    cost: RecordingCost


def measure_decode(
    lm: tt.LoadedModel,
    folder: Path,
    *,
    contexts: Sequence[int] = (SHORT_TOKENS, LONG_TOKENS),
    new_tokens: int = NEW_TOKENS,
    rounds: int = ROUNDS,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[DecodeFigures]:
    """Yield the figures of each context length.

    The engines take turns within a round, in an order that alternates; one more round, the first,
    warms up and is not counted. Both have the prompt cached, so a round only decodes. `tick` is
    called after each round.
    """
    with ForwardTimer(lm.model) as forwards:
        for context in contexts:
            with open_file_store(folder / f"decode-{context}.db") as store:
                ours = TokentapeEngine(lm, forwards, store)
                compared = _Comparison(
                    ours, GenerateEngine(lm, forwards), prompt_ids(lm.tokenizer, context)
                )
                comparisons = [
                    compared.run(sampler, new_tokens, rounds, tick) for sampler in SAMPLERS
                ]
                cost = RecordingCost(
                    step_ms=median(ms for each in comparisons for ms in each.our_ms),
                    record_ms=median(ours.recorder.token_ms),
                    record_alone_ms=_record_alone_ms(store, ours.recorder.run_id, folder),
                    measure_alone_ms=_measure_alone_ms(lm),
                )
            yield DecodeFigures(comparisons=tuple(comparisons), cost=cost)


class _Comparison:
    """Both engines with the same prompt cached."""

    def __init__(self, ours: TokentapeEngine, theirs: GenerateEngine, ids: list[int]) -> None:
        self._ours = ours
        self._theirs = theirs
        self._ids = ids
        # Fills the cache with the whole prompt except its last token.
        self._theirs.time_reply(ids[:-1], 1, reuse_cache=True, do_sample=False)
        self._prompt_cache = self._theirs.cache

    def run(
        self, sampler: str, new_tokens: int, rounds: int, tick: Callable[[], None]
    ) -> DecodeComparison:
        """Time rounds of both engines with one sampler."""
        our_ms, their_ms, same = [], [], True
        for number in range(rounds + 1):
            ours_first = number % 2 == 0
            if ours_first:
                ours = self._time_ours(sampler, new_tokens)
            theirs = self._time_theirs(sampler, new_tokens)
            if not ours_first:
                ours = self._time_ours(sampler, new_tokens)
            same &= ours.token_ids == theirs.token_ids
            if number:
                our_ms.append(median(ours.step_ms))
                their_ms.append(median(theirs.step_ms))
            tick()
        return DecodeComparison(
            context_tokens=len(self._ids),
            sampler=sampler,
            our_ms=tuple(our_ms),
            their_ms=tuple(their_ms),
            same_tokens=same,
        )

    def _time_ours(self, sampler: str, new_tokens: int) -> TimedReply:
        return self._ours.time_reply(self._ids, new_tokens, **SAMPLERS[sampler])

    def _time_theirs(self, sampler: str, new_tokens: int) -> TimedReply:
        self._theirs.cache = self._prompt_cache
        self._theirs.cache = self._theirs.copy_of_cache()
        return self._theirs.time_reply(self._ids, new_tokens, reuse_cache=True, **SAMPLERS[sampler])


def _record_alone_ms(store: DatabaseStore, run_id: str, folder: Path) -> float:
    """Return the median milliseconds of recording a run's tokens again, into a second file."""
    with open_file_store(folder / f"copy-{run_id}.db") as copy:
        recorder = tt.Recorder(copy)
        events = (envelope.event for envelope in store.recording(run_id).events())
        replayed = (each for each in events if isinstance(each, RunStarted | TokenSampled))
        recorder.record(next(replayed))
        taken = []
        for event in replayed:
            began = time.perf_counter()
            recorder.record(event)
            taken.append((time.perf_counter() - began) * 1000.0)
    return median(taken)


def _measure_alone_ms(lm: tt.LoadedModel) -> float:
    """Return the median milliseconds of measuring one token.

    It includes log-probabilities, entropy, gap, the top log-probabilities and the copy to the host.
    """
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    logits = torch.randn(1, vocabulary, device=lm.model.device)
    stops = torch.zeros(2, dtype=torch.bool, device=lm.model.device)
    drawn = draw(logits, logits, generator=None)
    taken = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        measure(logits, drawn, stops, top_logprobs=TOP_LOGPROBS)
        taken.append((time.perf_counter() - began) * 1000.0)
    return median(taken)
