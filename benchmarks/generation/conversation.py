"""A conversation after a long system prompt, timed with three caching strategies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import tokentape as tt
from benchmarks.generation.engines import (
    SAMPLERS,
    GenerateEngine,
    TimedReply,
    TokentapeEngine,
)
from benchmarks.generation.forward_timer import ForwardTimer
from benchmarks.prompts import question_ids, system_prompt
from benchmarks.stores import open_file_store

SYSTEM_TOKENS, TURNS, QUESTION_TOKENS, NEW_TOKENS = 6_287, 20, 55, 20
FRESH_TURNS = 3
_SETTINGS = SAMPLERS["greedy"]


@dataclass(slots=True)
class StrategyFigures:
    """What each turn took with one caching strategy.

    Work before turn 1, such as caching the system prompt, counts as part of turn 1.
    """

    name: str
    prefill_tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    token_ids: list[list[int]] = field(default_factory=list)

    def add(self, answer: TimedReply) -> None:
        """Append the figures of a turn."""
        self.prefill_tokens.append(answer.prefill_tokens)
        self.seconds.append(answer.seconds)
        self.token_ids.append(answer.token_ids)

    @property
    def later_seconds(self) -> float:
        """Return the median seconds of the turns after the first."""
        return median(self.seconds[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationFigures:
    """The figures of the three strategies over the same conversation."""

    ours: StrategyFigures
    reused: StrategyFigures
    fresh: StrategyFigures
    """Without any cache; the first turns only."""
    prompt_tokens: tuple[int, ...]
    """The length of the prompt of every turn."""

    @property
    def same_tokens(self) -> bool:
        """Return whether tokentape and `generate` with a reused cache gave the same tokens."""
        return self.ours.token_ids == self.reused.token_ids

    @property
    def same_tokens_as_fresh(self) -> bool:
        """Return whether `generate` without a cache gave them too, in the turns it was timed."""
        return self.fresh.token_ids == self.ours.token_ids[: len(self.fresh.token_ids)]


def measure_conversation(
    lm: tt.LoadedModel,
    folder: Path,
    *,
    system_tokens: int = SYSTEM_TOKENS,
    turns: int = TURNS,
    question_tokens: int = QUESTION_TOKENS,
    new_tokens: int = NEW_TOKENS,
    fresh_turns: int = FRESH_TURNS,
    tick: Callable[[], None] = lambda: None,
) -> ConversationFigures:
    """Hold one conversation with every strategy.

    The order of the strategies alternates from turn to turn. The next prompt of every strategy
    contains tokentape's reply.
    """
    with (
        ForwardTimer(lm.model) as forwards,
        open_file_store(folder / "conversation.db") as store,
    ):
        ours = TokentapeEngine(lm, forwards, store)
        strategies = _Strategies(ours, GenerateEngine(lm, forwards), new_tokens)
        before = ours.cache_system_prompt(system_prompt(lm.tokenizer, system_tokens))
        ids = list(ours.generator.conversation.ids)
        lengths = []
        for turn in range(1, turns + 1):
            ids += question_ids(lm.tokenizer, turn, question_tokens)
            lengths.append(len(ids))
            ids += strategies.turn(ids, turn, fresh=turn <= fresh_turns)
            tick()
    strategies.ours.prefill_tokens[0] += before[0]
    strategies.ours.seconds[0] += before[1]
    return ConversationFigures(
        ours=strategies.ours,
        reused=strategies.reused,
        fresh=strategies.fresh,
        prompt_tokens=tuple(lengths),
    )


class _Strategies:
    """The three strategies, given the same prompts."""

    def __init__(self, ours: TokentapeEngine, theirs: GenerateEngine, new_tokens: int) -> None:
        self._ours = ours
        self._theirs = theirs
        self._new_tokens = new_tokens
        self.ours = StrategyFigures("tokentape, recording")
        self.reused = StrategyFigures("generate, past_key_values reused by hand")
        self.fresh = StrategyFigures("generate, no cache")

    def turn(self, ids: Sequence[int], turn: int, *, fresh: bool) -> list[int]:
        """Run a turn with each strategy; return tokentape's reply."""
        timed: list[Callable[[Sequence[int]], None]] = [self._time_ours, self._time_reused]
        for time_reply in timed if turn % 2 else reversed(timed):
            time_reply(ids)
        if fresh:
            self.fresh.add(self._theirs.time_reply(ids, self._new_tokens, **_SETTINGS))
        return self.ours.token_ids[-1]

    def _time_ours(self, ids: Sequence[int]) -> None:
        self.ours.add(self._ours.time_reply(ids, self._new_tokens, **_SETTINGS))

    def _time_reused(self, ids: Sequence[int]) -> None:
        self.reused.add(
            self._theirs.time_reply(ids, self._new_tokens, reuse_cache=True, **_SETTINGS)
        )
