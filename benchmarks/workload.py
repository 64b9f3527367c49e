"""A conversation as every store is given it: what a real run records, without running a model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import tokentape as tt
from benchmarks.contenders import SAMPLERS, EventList
from benchmarks.texts import question
from benchmarks.token_draws import TokenDraws
from tokentape.generation.engine.sampling import turn_seed
from tokentape.generation.engine.turn_recorder import finished_turn
from tokentape.generation.history.conversation import Conversation, Prompt
from tokentape.generation.history.messages import NewMessage
from tokentape.recorder.events import (
    CacheDecided,
    Event,
    PrefillCompleted,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    TurnFinished,
    TurnStarted,
)

TURNS, TURN_TOKENS, QUESTION_WORDS = 20, 200, 60
SYSTEM_PROMPT = "You study your own weights. Answer in one sentence."
_SEED = 7
_BEGAN_US = 1_800_000_000_000_000
_PREFILL_US = 200_000
# Between events that nothing is computed for.
_PAUSE_US = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A turn as those see it who know of messages only."""

    question: str
    reply: str
    tokens: tuple[TokenSampled, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The events of a run but its end, in order, each with the time it is recorded at."""

    events: tuple[tuple[int, Event], ...]
    exchanges: tuple[Exchange, ...]

    @property
    def tokens(self) -> int:
        return sum(len(each.tokens) for each in self.exchanges)

    def without_candidates(self) -> "Workload":
        return replace(self, events=tuple((at_us, _bare(event)) for at_us, event in self.events))

    def without_tokens(self) -> "Workload":
        kept = [each for each in self.events if not isinstance(each[1], TokenSampled)]
        return replace(self, events=tuple(kept), exchanges=())


def make_workload(
    lm: tt.LoadedModel,
    *,
    turns: int = TURNS,
    turn_tokens: int = TURN_TOKENS,
    question_words: int = QUESTION_WORDS,
) -> Workload:
    """A short run of the engine says what is recorded; the turns are then made like its own."""
    begun = _begun(lm)
    writer = _Writer(lm, _Examples.of(begun), turn_tokens)
    for turn in range(1, turns + 1):
        writer.take_turn(turn, question(turn, question_words))
    # The list of the weights is as long for one token as for a million.
    started = replace(_first(begun, RunStarted), weights_listed=False)
    system = _first(begun, SystemPromptCached)
    events = _timed([started, system, *writer.events])
    return Workload(events=events, exchanges=tuple(writer.exchanges))


def _first(events: Sequence[Event], kind: type) -> Any:
    return next(each for each in events if isinstance(each, kind))


def _begun(lm: tt.LoadedModel) -> list[Event]:
    log = EventList()
    with tt.Investigation(
        lm, store=log, name="store", system_prompt=SYSTEM_PROMPT, seed=_SEED
    ) as run:
        run.chat("Are you there?", max_new_tokens=2, **SAMPLERS["sampled"])
    return log.events


@dataclass(frozen=True, slots=True, kw_only=True)
class _Examples:
    """What the engine recorded of a turn of its own."""

    started: TurnStarted
    decided: CacheDecided
    prefilled: PrefillCompleted

    @classmethod
    def of(cls, events: Sequence[Event]) -> "_Examples":
        return cls(
            started=_first(events, TurnStarted),
            decided=_first(events, CacheDecided),
            prefilled=_first(events, PrefillCompleted),
        )


class _Writer:
    def __init__(self, lm: tt.LoadedModel, examples: _Examples, turn_tokens: int) -> None:
        self._tokenizer = lm.tokenizer
        self._examples = examples
        self._turn_tokens = turn_tokens
        self._draws = TokenDraws(lm.tokenizer)
        self._conversation = Conversation(lm.tokenizer)
        self._conversation.restart(SYSTEM_PROMPT)
        self._cached_tokens = len(self._conversation.ids)
        self.events: list[Event] = []
        self.exchanges: list[Exchange] = []

    def take_turn(self, turn: int, asked: str) -> None:
        prompt = self._conversation.extend([NewMessage(role="user", content=asked)])
        self._conversation.begin_turn(prompt)
        self.events += [*prompt.events(turn), *self._before_tokens(turn, prompt)]
        tokens = self._draws.reply(
            turn=turn, prompt_tokens=len(prompt.ids), count=self._turn_tokens
        )
        finished = self._finished(turn, prompt, tokens)
        self.events += [*tokens, finished]
        self._conversation.finish_turn(
            [each.token_id for each in tokens], finished.text, finished.stop_text
        )
        # The token that was sampled last has not been forwarded.
        self._cached_tokens = len(self._conversation.ids) - 1
        self.exchanges.append(Exchange(question=asked, reply=finished.text, tokens=tuple(tokens)))

    def _before_tokens(self, turn: int, prompt: Prompt) -> tuple[Event, ...]:
        example = self._examples
        computed = len(prompt.ids) - self._cached_tokens
        return (
            replace(
                example.started,
                turn=turn,
                prompt_tokens=len(prompt.ids),
                kept_tokens=prompt.kept_tokens,
                kept_chars=prompt.kept_chars,
                added_ids=prompt.added_ids,
                added_text=prompt.added_text,
                history_reason=prompt.history_reason,
                seed=turn_seed(_SEED, turn),
                sampling={**example.started.sampling, "max_new_tokens": self._turn_tokens},
            ),
            replace(
                example.decided,
                turn=turn,
                prompt_tokens=len(prompt.ids),
                reused_tokens=self._cached_tokens,
                computed_tokens=computed,
                cached_tokens=self._cached_tokens,
            ),
            replace(
                example.prefilled,
                turn=turn,
                chunks=(computed,),
                duration_us=_PREFILL_US + turn,
            ),
        )

    def _finished(self, turn: int, prompt: Prompt, tokens: Sequence[TokenSampled]) -> TurnFinished:
        micros = _PREFILL_US + sum(each.duration_us for each in tokens)
        return finished_turn(
            self._tokenizer,
            prompt.ids,
            [each.token_id for each in tokens],
            turn=turn,
            stop_reason="max_new_tokens",
            generator=torch.Generator().manual_seed(turn),
            duration_us=micros,
        )


def _timed(events: Sequence[Event]) -> tuple[tuple[int, Event], ...]:
    """Each event with the time at which a run at the pace of its tokens would record it."""
    timed, now_us = [], _BEGAN_US
    for event in events:
        took_us = event.duration_us if isinstance(event, TokenSampled | PrefillCompleted) else 0
        now_us += took_us or _PAUSE_US
        timed.append((now_us, event))
    return tuple(timed)


def _bare(event: Event) -> Event:
    if not isinstance(event, TokenSampled):
        return event
    return replace(event, top_ids=(), top_logprobs=())
