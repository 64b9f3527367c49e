"""A token at a time, recorded, against Hugging Face `generate`: the time of a step."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import torch

import tokentape as tt
from benchmarks.contenders import SAMPLERS, Answer, HuggingFace, Tokentape
from benchmarks.forwards import Forwards
from benchmarks.texts import prompt_ids
from generation.manual import CANDIDATES
from generation.sampling import draw, measure

SHORT_TOKENS, LONG_TOKENS = 64, 5_000
NEW_TOKENS, ROUNDS = 64, 5
_MEASURES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """The median step of each round on both sides, and what recording took of ours."""

    context_tokens: int
    sampler: str
    our_ms: tuple[float, ...]
    their_ms: tuple[float, ...]
    record_ms: float
    measure_ms: float
    same_tokens: bool

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times faster than `generate`, round by round."""
        return tuple(his / our for our, his in zip(self.our_ms, self.their_ms, strict=True))

    @property
    def recording_share(self) -> float:
        """Of a step: choosing what is said of a token, and keeping it."""
        return (self.record_ms + self.measure_ms) / median(self.our_ms)


def measure_decoding(
    lm: tt.LoadedModel,
    folder: Path,
    *,
    contexts: Sequence[int] = (SHORT_TOKENS, LONG_TOKENS),
    new_tokens: int = NEW_TOKENS,
    rounds: int = ROUNDS,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Decoding]:
    """Both sides in turn, the order changed from round to round, after one round to warm up.

    The prompt is cached on both sides beforehand, so that a round is nothing but new tokens.
    """
    with Forwards(lm.model) as forwards:
        for number, (context, sampler) in enumerate(product(contexts, SAMPLERS)):
            with tt.open_store(f"sqlite:///{folder / f'decode-{number}.db'}") as store:
                duel = _Duel(Tokentape(lm, forwards, store), HuggingFace(lm, forwards), lm, context)
                yield duel.fight(sampler, new_tokens, rounds, tick)


class _Duel:
    def __init__(
        self, ours: Tokentape, theirs: HuggingFace, lm: tt.LoadedModel, context_tokens: int
    ) -> None:
        self._ours = ours
        self._theirs = theirs
        self._lm = lm
        self._ids = prompt_ids(lm.tokenizer, context_tokens)
        # Fills the cache with all of the prompt but its last token.
        self._theirs.ask(self._ids[:-1], 1, carried=True, do_sample=False)
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
            else:
                self._ours.recorder.token_ms.clear()
            tick()
        return Decoding(
            context_tokens=len(self._ids),
            sampler=sampler,
            our_ms=tuple(our_ms),
            their_ms=tuple(their_ms),
            record_ms=median(self._ours.recorder.token_ms),
            measure_ms=_measure_ms(self._lm),
            same_tokens=same,
        )

    def _ask_ours(self, sampler: str, new_tokens: int) -> Answer:
        return self._ours.ask(self._ids, new_tokens, **SAMPLERS[sampler])

    def _ask_theirs(self, sampler: str, new_tokens: int) -> Answer:
        self._theirs.cache = self._prompt_cache
        self._theirs.cache = self._theirs.copy_of_cache()
        return self._theirs.ask(self._ids, new_tokens, carried=True, **SAMPLERS[sampler])


def _measure_ms(lm: tt.LoadedModel) -> float:
    """Log-probabilities, entropy, gap and candidates of one token, and their way to the host."""
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    logits = torch.randn(1, vocabulary, device=lm.model.device)
    stops = torch.zeros(2, dtype=torch.bool, device=lm.model.device)
    drawn = draw(logits, generator=None)
    taken = []
    for _ in range(_MEASURES):
        began = time.perf_counter()
        measure(logits, drawn, stops, candidates=CANDIDATES)
        taken.append((time.perf_counter() - began) * 1000.0)
    return median(taken)
