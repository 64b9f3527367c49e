"""The engine against Hugging Face `generate`: every cache, every sampler, every way to start.

Two claims, checked apart. *Same schedule*: on a cache that Hugging Face filled by the same
forwards, `generate` gives the same raw logits, tokens and end state of the random generator, bit
for bit. *Fresh*: `generate` without any cache gives the same tokens, in float32.
"""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast
from transformers.cache_utils import Cache

import tokentape as tt
from benchmarks.tiny_models import FAMILIES, byte_tokenizer, random_ids, tiny_model
from tokentape.generation import hf
from tokentape.generation.engine.sampling import generator_sha256
from tokentape.recorder.events import CacheDecided

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CONFIGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "temperature": {"do_sample": True, "temperature": 0.7},
    "top-k": {"do_sample": True, "top_k": 5},
    "top-p": {"do_sample": True, "top_p": 0.8, "top_k": 0},
    "min-p": {"do_sample": True, "min_p": 0.1, "temperature": 1.3},
    "typical": {"do_sample": True, "typical_p": 0.7},
    "everything": {
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 4,
        "min_new_tokens": 6,
        "suppress_tokens": [40, 41],
    },
}
STARTS = ("fresh", "reuse", "crop", "fork", "disk")
SEED, NEW_TOKENS = 1234, 10
_FIRST = random_ids(40, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the matrix. None where there is nothing to compare with; see `passes`."""

    family: str
    dtype: str
    config: str
    start: str
    decision: str
    reused_tokens: int
    bitwise: bool | None
    same_tokens_as_fresh: bool | None

    @property
    def passes(self) -> bool:
        """In 16 bits a reused cache may move a token: only the same schedule is promised there."""
        fresh_counts = self.dtype == "float32" or self.start == "fresh"
        return self.bitwise is not False and (
            self.same_tokens_as_fresh is not False or not fresh_counts
        )


@dataclass(frozen=True, slots=True)
class _Said:
    tokens: list[int]
    logits: list[torch.Tensor]
    end_state: str

    def equals(self, other: "_Said", *, sampled: bool) -> bool:
        return (
            self.tokens == other.tokens
            and len(self.logits) == len(other.logits)
            and all(map(torch.equal, self.logits, other.logits))
            and (not sampled or self.end_state == other.end_state)
        )


class HuggingFace:
    """`generate`, and the caches that its calls left behind, by the ids that they hold."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.left: tuple[tuple[int, ...], Cache | None] = ((), None)
        self._left: list[tuple[tuple[int, ...], Cache]] = []
        self._mirrored: set[tuple[tuple[int, ...], int]] = set()

    def say(self, ids: Sequence[int], settings: dict[str, Any], cache: Cache | None) -> _Said:
        """Greedy or sampled from a known seed, on a cache of the first ids or on none."""
        given = {} if cache is None else {hf.cache_name(self._model): cache}
        prompt = torch.tensor([list(ids)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            output = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                **{"max_new_tokens": NEW_TOKENS} | settings | given,
                return_dict_in_generate=True,
                output_logits=True,
            )
            end_state = generator_sha256(torch.default_generator)
        tokens: list[int] = output.sequences[0, len(ids) :].tolist()
        self.left = ((*ids, *tokens[:-1]), getattr(output, "past_key_values", None))
        return _Said(tokens, [row[0] for row in output.logits], end_state)

    def cache_of(self, ids: Sequence[int]) -> Cache | None:
        """A copy of a cache of exactly these ids, cut as transformers cuts; None without one."""
        wanted = tuple(ids)
        if hf.cache_name(self._model) != "past_key_values":
            # `generate` takes such a cache and computes all of the prompt on top of it.
            return None
        for held, cache in reversed(self._left):
            if held[: len(wanted)] != wanted:
                continue
            twin = copy.deepcopy(cache)
            if len(held) > len(wanted):
                try:
                    twin.crop(len(wanted) - len(held))
                except (RuntimeError, ValueError):
                    continue
            return twin
        return None

    def mirror_turn(self, ids: Sequence[int], reused: int, settings: dict[str, Any]) -> None:
        """Do what the engine did for a turn, once: first the prompt alone, then all of it."""
        if (tuple(ids), reused) in self._mirrored:
            return
        self._mirrored.add((tuple(ids), reused))
        for limit in (1, settings["max_new_tokens"]):
            start = self.cache_of(ids[:reused]) if reused else None
            self.say(ids, settings | {"max_new_tokens": limit}, start)
            held, left = self.left
            if left is not None:
                self._left.append((held, left))


@dataclass(frozen=True, slots=True)
class _Log:
    """Keeps events in memory: what the random generator ended as is nowhere else."""

    events: list[Any]

    def append(self, envelope: tt.Envelope, *, durable: bool) -> None:
        self.events.append(envelope.event)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        """No tool runs here."""


class _Scenario:
    """An engine and `generate` side by side, led through the same turns."""

    def __init__(self, lm: tt.LoadedModel, theirs: HuggingFace, folder: Path | None) -> None:
        self.lm = lm
        self.folder = folder
        self.theirs = theirs
        self.ours = self.engine()

    def engine(self) -> tt.ManualGenerator:
        self.log = _Log([])
        return tt.ManualGenerator(
            self.lm.model, self.lm.tokenizer, tt.Recorder(self.log), prefix_folder=self.folder
        )

    def turn(self, ids: Sequence[int]) -> list[int]:
        """A greedy turn on both sides; the ids of prompt and reply."""
        settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8}
        result = self.ours.generate(ids, **settings)
        self.theirs.mirror_turn(ids, result["cache"].reused_tokens, settings)
        return [*ids, *result["generated_tokens"]]

    def say(self, ids: Sequence[int], settings: dict[str, Any]) -> tuple[_Said, CacheDecided]:
        """The engine's own words, and what it decided on its cache."""
        logits: list[torch.Tensor] = []
        result = self.ours.generate(
            ids,
            max_new_tokens=NEW_TOKENS,
            seed=SEED,
            callback=lambda token_id, row: logits.append(row.clone()),
            **settings,
        )
        end_state = self.log.events[-1].generator_sha256
        return _Said(result["generated_tokens"], logits, end_state), result["cache"]

    def prompt(self, start: str) -> list[int]:
        """Lead both sides to where a prompt begins as `start` says."""
        if start == "fresh":
            return _FIRST
        first = self.turn(_FIRST)
        longer = first + random_ids(9, 2)
        if start == "reuse":
            return longer
        if start == "crop":
            return _FIRST[:30] + random_ids(15, 3)
        if start == "fork":
            there = self.turn(longer)
            self.turn(first[:44] + random_ids(7, 4))
            return there + random_ids(5, 5)
        self.ours.store_prefix()
        self.ours = self.engine()
        return longer


def run_matrix(
    families: Sequence[str] = tuple(FAMILIES),
    dtypes: Sequence[str] = tuple(DTYPES),
    configs: Sequence[str] = tuple(CONFIGS),
    starts: Sequence[str] = STARTS,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Iterator[Cell]:
    """The cells of the matrix, one after the other."""
    tokenizer = tokenizer or byte_tokenizer()
    for family in families:
        for dtype in dtypes:
            lm = tiny_model(family, tokenizer, dtype=DTYPES[dtype])
            for start in starts:
                # What leads there is greedy, and the same whatever comes behind it.
                theirs = HuggingFace(lm.model)
                for config in configs:
                    with tempfile.TemporaryDirectory() as folder:
                        where = Path(folder) if start == "disk" else None
                        scenario = _Scenario(lm, theirs, where)
                        yield _cell(scenario, family, dtype, config, start)


def _cell(scenario: _Scenario, family: str, dtype: str, config: str, start: str) -> Cell:
    settings = CONFIGS[config]
    ids = scenario.prompt(start)
    said, decided = scenario.say(ids, settings)
    fresh = scenario.theirs.say(ids, settings, None)
    reused = decided.reused_tokens
    bitwise: bool | None = None
    if not reused:
        bitwise = said.equals(fresh, sampled=settings["do_sample"])
    elif (same := scenario.theirs.cache_of(ids[:reused])) is not None:
        theirs = scenario.theirs.say(ids, settings, same)
        bitwise = said.equals(theirs, sampled=settings["do_sample"])
    return Cell(
        family=family,
        dtype=dtype,
        config=config,
        start=start,
        decision=f"{decided.decision}:{decided.reason}",
        reused_tokens=reused,
        bitwise=bitwise,
        same_tokens_as_fresh=said.tokens == fresh.tokens,
    )
