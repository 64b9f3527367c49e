"""A token at a time, recorded, against Hugging Face `generate`: the time of a step."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

import tokentape as tt
from benchmarks.contenders import SAMPLERS, Answer, HuggingFace, Tokentape, recording_file
from benchmarks.forwards import Forwards
from benchmarks.texts import prompt_ids
from tokentape.generation.engine.sampling import draw, measure
from tokentape.generation.run_settings import TOP_LOGPROBS
from tokentape.recorder.events import RunStarted, TokenSampled
from tokentape.store import DatabaseStore

SHORT_TOKENS, LONG_TOKENS = 64, 5_000
NEW_TOKENS, ROUNDS = 64, 7
_REPEATS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """The median step of each round on both sides."""

    context_tokens: int
    sampler: str
    our_ms: tuple[float, ...]
    their_ms: tuple[float, ...]
    same_tokens: bool

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times faster than `generate`, round by round."""
        return tuple(his / our for our, his in zip(self.our_ms, self.their_ms, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingCost:
    """Medians, in milliseconds a token.

    Among steps of the model every cache of the processor is cold; alone, one after the other, it
    is warm.
    """

    step_ms: float
    record_ms: float
    record_alone_ms: float
    measure_alone_ms: float

    @property
    def record_share(self) -> float:
        """Of a step of the model."""
        return self.record_ms / self.step_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeFigures:
    """At one context: a duel for each sampler, and what recording took of our steps."""

    decodings: tuple[Decoding, ...]
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
    """Both sides in turn, the order changed from round to round, after one round to warm up.

    The prompt is cached on both sides beforehand, so that a round is nothing but new tokens.
    """
    with Forwards(lm.model) as forwards:
        for context in contexts:
            with recording_file(folder / f"decode-{context}.db") as store:
                ours = Tokentape(lm, forwards, store)
                duel = _Duel(ours, HuggingFace(lm, forwards), prompt_ids(lm.tokenizer, context))
                decodings = [duel.fight(sampler, new_tokens, rounds, tick) for sampler in SAMPLERS]
                cost = RecordingCost(
                    step_ms=median(ms for each in decodings for ms in each.our_ms),
                    record_ms=median(ours.recorder.token_ms),
                    record_alone_ms=_record_alone_ms(store, ours.recorder.run_id, folder),
                    measure_alone_ms=_measure_alone_ms(lm),
                )
            yield DecodeFigures(decodings=tuple(decodings), cost=cost)


class _Duel:
    def __init__(self, ours: Tokentape, theirs: HuggingFace, ids: list[int]) -> None:
        self._ours = ours
        self._theirs = theirs
        self._ids = ids
        # Fills the cache with all of the prompt but its last token.
        self._theirs.ask(ids[:-1], 1, carried=True, do_sample=False)
        self._prompt_cache = self._theirs.cache

    def fight(
        self, sampler: str, new_tokens: int, rounds: int, tick: Callable[[], None]
    ) -> Decoding:
        our_ms, their_ms, same = [], [], True
        for number in range(rounds + 1):
            ours_first = number % 2 == 0
            if ours_first:
                ours = self._ask_ours(sampler, new_tokens)
            theirs = self._ask_theirs(sampler, new_tokens)
            if not ours_first:
                ours = self._ask_ours(sampler, new_tokens)
            same &= ours.token_ids == theirs.token_ids
            if number:
                our_ms.append(median(ours.step_ms))
                their_ms.append(median(theirs.step_ms))
            tick()
        return Decoding(
            context_tokens=len(self._ids),
            sampler=sampler,
            our_ms=tuple(our_ms),
            their_ms=tuple(their_ms),
            same_tokens=same,
        )

    def _ask_ours(self, sampler: str, new_tokens: int) -> Answer:
        return self._ours.ask(self._ids, new_tokens, **SAMPLERS[sampler])

    def _ask_theirs(self, sampler: str, new_tokens: int) -> Answer:
        self._theirs.cache = self._prompt_cache
        self._theirs.cache = self._theirs.copy_of_cache()
        return self._theirs.ask(self._ids, new_tokens, carried=True, **SAMPLERS[sampler])


def _record_alone_ms(store: DatabaseStore, run_id: str, folder: Path) -> float:
    """The same tokens into a second file, one after the other."""
    with recording_file(folder / f"again-{run_id}.db") as again:
        recorder = tt.Recorder(again)
        events = (envelope.event for envelope in store.recording(run_id).events())
        kept = (each for each in events if isinstance(each, RunStarted | TokenSampled))
        recorder.record(next(kept))
        taken = []
        for event in kept:
            began = time.perf_counter()
            recorder.record(event)
            taken.append((time.perf_counter() - began) * 1000.0)
    return median(taken)


def _measure_alone_ms(lm: tt.LoadedModel) -> float:
    """Log-probabilities, entropy, gap and candidates of one token, and their way to the host."""
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
