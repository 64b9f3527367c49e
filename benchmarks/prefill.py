"""How many tokens 20 turns forward: without a cache, with the system prompt's, with all of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import tokentape as tt
from benchmarks.contenders import EventList
from benchmarks.forwards import Forwards, tokens_of
from benchmarks.texts import system_prompt
from benchmarks.tiny_models import byte_tokenizer, random_ids, tiny_model
from tokentape.generation.cache import CachedPrefix
from tokentape.generation.run_settings import PREFILL_CHUNK_TOKENS
from tokentape.recorder.events import PrefillCompleted, SystemPromptCached

SYSTEM_TOKENS = 6_287
TURN_3_TOKENS = 12_783
TURNS = 20
# How a prompt is cut does not change how many tokens it has: large pieces are quick where nearly
# all of it is computed anew. The last way is the engine as it is.
WAYS = {"no cache": None, "system prompt only": 2048, "whole history": PREFILL_CHUNK_TOKENS}
"""What is cached between turns, and the tokens of a forward."""


def prompt_tokens(turn: int, system_tokens: int, turn_3_tokens: int) -> int:
    """The length of a prompt that grows evenly from the system prompt to that of turn 3."""
    return system_tokens + round(turn * (turn_3_tokens - system_tokens) / 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """Tokens that went through the model on one way; what is cached before turn 1 is in it."""

    way: str
    before_turns: int
    by_turn: tuple[int, ...]
    recorded: int
    """The same total as the events of the run have it."""

    @property
    def total(self) -> int:
        return self.before_turns + sum(self.by_turn)


def measure_forwarded(
    *,
    system_tokens: int = SYSTEM_TOKENS,
    turn_3_tokens: int = TURN_3_TOKENS,
    turns: int = TURNS,
    tick: Callable[[], None] = lambda: None,
) -> tuple[list[int], list[Forwarded]]:
    """The prompts' lengths, and what each way forwards for them, on a model as small as can be.

    One token is generated a turn, so that every forward is a prefill.
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
    with Forwards(lm.model) as forwards:
        return lengths, [
            _Way(lm, forwards, way, system_tokens).measure(lengths, tick) for way in WAYS
        ]


class _Way:
    def __init__(
        self, lm: tt.LoadedModel, forwards: Forwards, way: str, system_tokens: int
    ) -> None:
        self._forwards = forwards
        self._way = way
        self._log = EventList()
        self._generator = tt.ManualGenerator(
            lm.model,
            lm.tokenizer,
            tt.Recorder(self._log),
            prefill_chunk_tokens=WAYS[way],
        )
        self._system_prompt = system_prompt(lm.tokenizer, system_tokens)
        self._system_cache: CachedPrefix | None = None

    def measure(self, lengths: Sequence[int], tick: Callable[[], None]) -> Forwarded:
        self._forwards.take()
        ids = self._begin()
        before_turns = tokens_of(self._forwards.take())
        by_turn = []
        for turn, length in enumerate(lengths, 1):
            ids += random_ids(length - len(ids), turn)
            ids += self._generate(ids)
            by_turn.append(tokens_of(self._forwards.take()))
            tick()
        return Forwarded(
            way=self._way,
            before_turns=before_turns,
            by_turn=tuple(by_turn),
            recorded=sum(_chunks(self._log)),
        )

    def _begin(self) -> list[int]:
        """The ids of the system prompt, cached if this is a way that caches them."""
        if self._way == "whole history":
            self._generator.cache_system_prompt(self._system_prompt)
            return list(self._generator.conversation.ids)
        self._generator.conversation.restart(self._system_prompt)
        ids = list(self._generator.conversation.ids)
        if self._way == "system prompt only":
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
            use_cache=self._way != "no cache",
            past_key_values=self._system_cache,
        )
        return result["generated_tokens"]


def _chunks(log: EventList) -> Iterator[int]:
    for event in log.events:
        if isinstance(event, PrefillCompleted | SystemPromptCached):
            yield from event.chunks
