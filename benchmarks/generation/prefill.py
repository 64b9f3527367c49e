"""Tokens forwarded over 20 turns: no cache, the system prompt cached, the whole history cached."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import tokentape as tt
from benchmarks.generation.forward_timer import ForwardTimer, tokens_of
from benchmarks.prompts import system_prompt
from benchmarks.stores import EventList
from benchmarks.tiny_models import byte_tokenizer, random_ids, tiny_model
from tokentape.generation.cache import CachedPrefix
from tokentape.generation.run_settings import PREFILL_CHUNK_TOKENS
from tokentape.recorder.events import PrefillCompleted, SystemPromptCached

SYSTEM_TOKENS = 6_287
TURN_3_TOKENS = 12_783
TURNS = 20
# The size of a chunk does not change how many tokens are forwarded: large chunks are faster when
# most of a prompt is recomputed. The last strategy has the engine's default.
STRATEGIES = {"no cache": None, "system prompt only": 2048, "whole history": PREFILL_CHUNK_TOKENS}
"""The tokens of a prefill chunk (None: the whole prompt), by caching strategy."""


def prompt_tokens(turn: int, system_tokens: int, turn_3_tokens: int) -> int:
    """Return the length of a turn's prompt, which grows linearly through that of turn 3."""
    return system_tokens + round(turn * (turn_3_tokens - system_tokens) / 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """The tokens that one strategy sent through the model."""

    strategy: str
    before_turns: int
    """Forwarded to cache the system prompt, before turn 1."""
    by_turn: tuple[int, ...]
    recorded: int
    """The total by the events of the run."""

    @property
    def total(self) -> int:
        """Return the total by the embedding."""
        return self.before_turns + sum(self.by_turn)


def measure_forwarded(
    *,
    system_tokens: int = SYSTEM_TOKENS,
    turn_3_tokens: int = TURN_3_TOKENS,
    turns: int = TURNS,
    tick: Callable[[], None] = lambda: None,
) -> tuple[list[int], list[Forwarded]]:
    """Return the length of each prompt, and the tokens that each strategy forwards.

    The model has one layer of eight dimensions. Each turn generates one token, so every forward is
    a prefill.
    """
    lengths = [prompt_tokens(turn, system_tokens, turn_3_tokens) for turn in range(1, turns + 1)]
    lm = tiny_model(
        "llama",
        byte_tokenizer(),
        num_hidden_layers=1,
        hidden_size=8,
        intermediate_size=8,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=lengths[-1] + 1,
    )
    with ForwardTimer(lm.model) as forwards:
        return lengths, [
            _StrategyRun(lm, forwards, strategy, system_tokens).measure(lengths, tick)
            for strategy in STRATEGIES
        ]


class _StrategyRun:
    """A conversation with one caching strategy."""

    def __init__(
        self, lm: tt.LoadedModel, forwards: ForwardTimer, strategy: str, system_tokens: int
    ) -> None:
        self._forwards = forwards
        self._strategy = strategy
        self._log = EventList()
        self._generator = tt.ManualGenerator(
            lm.model,
            lm.tokenizer,
            tt.Recorder(self._log),
            prefill_chunk_tokens=STRATEGIES[strategy],
        )
        self._system_prompt = system_prompt(lm.tokenizer, system_tokens)
        self._system_cache: CachedPrefix | None = None

    def measure(self, lengths: Sequence[int], tick: Callable[[], None]) -> Forwarded:
        """Run a turn for each length of prompt."""
        self._forwards.drain()
        ids = self._begin()
        before_turns = tokens_of(self._forwards.drain())
        by_turn = []
        for turn, length in enumerate(lengths, 1):
            ids += random_ids(length - len(ids), turn)
            ids += self._generate(ids)
            by_turn.append(tokens_of(self._forwards.drain()))
            tick()
        return Forwarded(
            strategy=self._strategy,
            before_turns=before_turns,
            by_turn=tuple(by_turn),
            recorded=sum(_chunks(self._log)),
        )

    def _begin(self) -> list[int]:
        """Return the ids of the system prompt; cache them if the strategy does."""
        if self._strategy == "whole history":
            self._generator.cache_system_prompt(self._system_prompt)
            return list(self._generator.conversation.ids)
        self._generator.conversation.restart(self._system_prompt)
        ids = list(self._generator.conversation.ids)
        if self._strategy == "system prompt only":
            held = self._generator.generate(
                ids, max_new_tokens=1, do_sample=False, return_cache=True
            )
            self._system_cache = held["past_key_values"]
        return ids

    def _generate(self, ids: list[int]) -> list[int]:
        result = self._generator.generate(
            ids,
            max_new_tokens=1,
            do_sample=False,
            use_cache=self._strategy != "no cache",
            past_key_values=self._system_cache,
        )
        return result["generated_tokens"]


def _chunks(log: EventList) -> Iterator[int]:
    for event in log.events:
        if isinstance(event, PrefillCompleted | SystemPromptCached):
            yield from event.chunks
