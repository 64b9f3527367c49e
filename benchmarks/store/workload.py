"""The conversation that every writer stores: the events of a real run, without running a model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import tokentape as tt
from benchmarks.generation.engines import SAMPLERS
from benchmarks.prompts import question
from benchmarks.store.synthetic_tokens import SyntheticTokens
from benchmarks.stores import EventList
from tokentape.generation.engine.turn_recorder import finished_turn
from tokentape.generation.history.conversation import Conversation
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.history.prompt import Prompt
from tokentape.generation.history.spelling import spell_tokens
from tokentape.recorder.derived_seeds import turn_seed
from tokentape.recorder.events import (
    CacheDecided,
    Event,
    PrefillCompleted,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    TokensSpelled,
    TurnFinished,
    TurnStarted,
)

TURNS, TURN_TOKENS, QUESTION_WORDS = 20, 200, 60
SYSTEM_PROMPT = "You study your own weights. TimedReply in one sentence."
_SEED = 7
_BEGAN_US = 1_800_000_000_000_000
_PREFILL_US = 200_000
# Between events that have no duration.
_PAUSE_US = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A turn as two messages, with the tokens of the reply."""

    question: str
    reply: str
    tokens: tuple[TokenSampled, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The events of a run without its end, and the same conversation as messages."""

    events: tuple[tuple[int, Event], ...]
    """In order, each with the time of its recording in microseconds."""
    exchanges: tuple[Exchange, ...]

    @property
    def tokens(self) -> int:
        """Return the number of generated tokens."""
        return sum(len(each.tokens) for each in self.exchanges)

    def without_top_logprobs(self) -> "Workload":
        """Return a copy whose tokens have no top ids and no top log-probabilities."""
        events = tuple((at_us, _without_top(event)) for at_us, event in self.events)
        return replace(self, events=events)

    def without_tokens(self) -> "Workload":
        """Return a copy without `TokenSampled` events."""
        others = [each for each in self.events if not isinstance(each[1], TokenSampled)]
        return replace(self, events=tuple(others), exchanges=())


def make_workload(
    lm: tt.LoadedModel,
    *,
    turns: int = TURNS,
    turn_tokens: int = TURN_TOKENS,
    question_words: int = QUESTION_WORDS,
) -> Workload:
    """Record a short run with the engine, then make turns like its turn."""
    recorded = _recorded_by_engine(lm)
    writer = _TurnWriter(lm, _Examples.of(recorded), turn_tokens)
    for turn in range(1, turns + 1):
        writer.add_turn(turn, question(turn, question_words))
    # The size of the weights manifest does not depend on the number of tokens.
    started = replace(_first(recorded, RunStarted), weights_listed=False)
    system = _first(recorded, SystemPromptCached)
    events = _timed([started, system, *writer.events])
    return Workload(events=events, exchanges=tuple(writer.exchanges))


def _first(events: Sequence[Event], kind: type) -> Any:
    return next(each for each in events if isinstance(each, kind))


def _recorded_by_engine(lm: tt.LoadedModel) -> list[Event]:
    log = EventList()
    with tt.Investigation(
        lm, store=log, name="store", system_prompt=SYSTEM_PROMPT, seed=_SEED
    ) as run:
        run.chat("Are you there?", max_new_tokens=2, **SAMPLERS["sampled"])
    return log.events


@dataclass(frozen=True, slots=True, kw_only=True)
class _Examples:
    """Events of a turn that the engine recorded."""

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


class _TurnWriter:
    """A writer of turns that continue one conversation."""

    def __init__(self, lm: tt.LoadedModel, examples: _Examples, turn_tokens: int) -> None:
        self._tokenizer = lm.tokenizer
        self._examples = examples
        self._turn_tokens = turn_tokens
        self._draws = SyntheticTokens(lm.tokenizer)
        self._conversation = Conversation(lm.tokenizer)
        self._conversation.restart(SYSTEM_PROMPT)
        self._cached_tokens = len(self._conversation.ids)
        self._spelled: set[int] = set()
        self.events: list[Event] = []
        self.exchanges: list[Exchange] = []

    def add_turn(self, turn: int, question_text: str) -> None:
        """Append the events of a turn, and its messages."""
        prompt = self._conversation.extend([NewMessage(role="user", content=question_text)])
        self._conversation.begin_turn(prompt)
        self.events += [*prompt.events(turn), *self._before_tokens(turn, prompt)]
        tokens = self._draws.reply(
            turn=turn, prompt_tokens=len(prompt.ids), count=self._turn_tokens
        )
        finished = self._finished(turn, prompt, tokens)
        self.events += [*tokens, self._spelled_texts(turn, tokens), finished]
        self._conversation.finish_turn(
            [each.token_id for each in tokens], finished.text, finished.stop_text
        )
        # The last sampled token has not been forwarded.
        self._cached_tokens = len(self._conversation.ids) - 1
        self.exchanges.append(
            Exchange(question=question_text, reply=finished.text, tokens=tuple(tokens))
        )

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

    def _spelled_texts(self, turn: int, tokens: Sequence[TokenSampled]) -> TokensSpelled:
        """Return the texts of the ids that no earlier turn has."""
        ids = {each for token in tokens for each in (token.token_id, *token.top_ids)}
        new = sorted(ids - self._spelled)
        self._spelled.update(new)
        return TokensSpelled(turn=turn, texts=spell_tokens(self._tokenizer, new))

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
    """Pair each event with its time in a run at the pace of its tokens, in microseconds."""
    timed, now_us = [], _BEGAN_US
    for event in events:
        took_us = event.duration_us if isinstance(event, TokenSampled | PrefillCompleted) else 0
        now_us += took_us or _PAUSE_US
        timed.append((now_us, event))
    return tuple(timed)


def _without_top(event: Event) -> Event:
    if not isinstance(event, TokenSampled):
        return event
    return replace(event, top_ids=(), top_logprobs=())
