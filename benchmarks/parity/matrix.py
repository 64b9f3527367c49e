"""The engine against Hugging Face `generate`: every cache, every sampler, every way to start.

Two claims are checked. *Same schedule*: on a cache that Hugging Face filled by the same
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
from benchmarks.stores import EventList
from benchmarks.tiny_models import FAMILIES, byte_tokenizer, random_ids, tiny_model
from tokentape.generation import hf
from tokentape.generation.engine.sampling import generator_sha256
from tokentape.generation.numerics.attention import cuda_device, repeatable_attention
from tokentape.recorder.events import CacheDecided

DTYPES = ("float32", "bfloat16")
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
    """One cell of the matrix."""

    family: str
    dtype: str
    config: str
    start: str
    decision: str
    reused_tokens: int
    bitwise: bool | None
    """Whether logits, tokens and end state equal those of `generate` on the same cache; None if
    transformers cannot continue from that cache.
    """
    same_tokens_as_fresh: bool | None

    @property
    def passes(self) -> bool:
        """Return whether the claims hold that apply to this cell.

        In 16 bits a reused cache may change a token, so only the same schedule is claimed.
        """
        fresh_counts = self.dtype == "float32" or self.start == "fresh"
        return self.bitwise is not False and (
            self.same_tokens_as_fresh is not False or not fresh_counts
        )


@dataclass(frozen=True, slots=True)
class _Output:
    """Tokens, raw logits, and the hash of the random generator's end state."""

    tokens: list[int]
    logits: list[torch.Tensor]
    end_state: str

    def equals(self, other: "_Output", *, sampled: bool) -> bool:
        """Return whether both are bitwise equal; end states count only if tokens were sampled."""
        return (
            self.tokens == other.tokens
            and len(self.logits) == len(other.logits)
            and all(map(torch.equal, self.logits, other.logits))
            and (not sampled or self.end_state == other.end_state)
        )


class GenerateMirror:
    """`generate`, led through the engine's turns, with the caches that its calls filled."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.left: tuple[tuple[int, ...], Cache | None] = ((), None)
        self._left: list[tuple[tuple[int, ...], Cache]] = []
        self._mirrored: set[tuple[tuple[int, ...], int]] = set()

    def generate(
        self, ids: Sequence[int], settings: dict[str, Any], cache: Cache | None
    ) -> _Output:
        """Generate from a fixed seed, with a cache of a prefix of the ids or None."""
        given = {} if cache is None else hf.cache_argument(self._model, cache)
        device = cuda_device(self._model)
        prompt = torch.tensor([list(ids)], device=self._model.device)
        with (
            torch.random.fork_rng(devices=[] if device is None else [device]),
            repeatable_attention(device),
        ):
            torch.manual_seed(SEED)
            output = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                **{"max_new_tokens": NEW_TOKENS} | settings | given,
                return_dict_in_generate=True,
                output_logits=True,
            )
            end_state = generator_sha256(_default_generator(device))
        tokens: list[int] = output.sequences[0, len(ids) :].tolist()
        self.left = ((*ids, *tokens[:-1]), hf.cache_of(output))
        return _Output(tokens, [row[0] for row in output.logits], end_state)

    def cache_of(self, ids: Sequence[int]) -> Cache | None:
        """Return a copy of a cache of exactly these ids, cropped by transformers if it is longer.

        Return None without one, or if transformers cannot continue from such a cache.
        """
        wanted = tuple(ids)
        if hf.held_tokens(hf.new_cache(self._model)) is None:
            # `generate` accepts such a cache, but computes the whole prompt on top of it.
            return None
        for held, cache in reversed(self._left):
            if held[: len(wanted)] != wanted:
                continue
            twin = copy.deepcopy(cache)
            if len(held) > len(wanted):
                if hf.recurrent(twin):
                    # Some releases ignore `crop` here in silence.
                    continue
                try:
                    twin.crop(len(wanted) - len(held))
                except (RuntimeError, ValueError):
                    continue
            return twin
        return None

    def mirror_turn(self, ids: Sequence[int], reused: int, settings: dict[str, Any]) -> None:
        """Run the forwards that the engine ran for a turn: prefill, then decoding.

        A turn that was mirrored before is not run again.
        """
        if (tuple(ids), reused) in self._mirrored:
            return
        self._mirrored.add((tuple(ids), reused))
        for limit in (1, settings["max_new_tokens"]):
            start = self.cache_of(ids[:reused]) if reused else None
            self.generate(ids, settings | {"max_new_tokens": limit}, start)
            held, left = self.left
            if left is not None:
                self._left.append((held, left))


def _default_generator(device: torch.device | None) -> torch.Generator:
    """Return torch's own generator of a CUDA device, or that of the CPU."""
    if device is None:
        return torch.default_generator
    generators: tuple[torch.Generator, ...] = torch.cuda.default_generators
    return generators[device.index or 0]


class _Scenario:
    """The engine and `generate`, led through the same turns."""

    def __init__(self, lm: tt.LoadedModel, theirs: GenerateMirror, folder: Path | None) -> None:
        self.lm = lm
        self.folder = folder
        self.theirs = theirs
        self.ours = self.engine()

    def engine(self) -> tt.ManualGenerator:
        """Return a new engine that records into a new log."""
        self.log = EventList()
        return tt.ManualGenerator(
            self.lm.model, self.lm.tokenizer, tt.Recorder(self.log), prefix_folder=self.folder
        )

    def turn(self, ids: Sequence[int]) -> list[int]:
        """Run a greedy turn with both; return the ids of prompt and reply."""
        settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8}
        result = self.ours.generate(ids, **settings)
        self.theirs.mirror_turn(ids, result["cache"].reused_tokens, settings)
        return [*ids, *result["generated_tokens"]]

    def generate(
        self, ids: Sequence[int], settings: dict[str, Any]
    ) -> tuple[_Output, CacheDecided]:
        """Generate with the engine from a fixed seed; return its output and cache decision."""
        logits: list[torch.Tensor] = []
        result = self.ours.generate(
            ids,
            max_new_tokens=NEW_TOKENS,
            seed=SEED,
            callback=lambda token_id, row: logits.append(row.clone()),
            **settings,
        )
        end_state = self.log.events[-1].generator_sha256
        return _Output(result["generated_tokens"], logits, end_state), result["cache"]

    def prompt(self, start: str) -> list[int]:
        """Run the turns that bring the cache into a state of `STARTS`; return the next prompt."""
        if start == "fresh":
            return _FIRST
        first = self.turn(_FIRST)
        longer = first + random_ids(9, 2)
        if start == "reuse":
            return longer
        if start == "crop":
            return _FIRST[:30] + random_ids(15, 3)
        if start == "fork":
            second = self.turn(longer)
            self.turn(first[:44] + random_ids(7, 4))
            return second + random_ids(5, 5)
        self.ours.store_prefix()
        self.ours = self.engine()
        return longer


def run_matrix(
    families: Sequence[str] = tuple(FAMILIES),
    dtypes: Sequence[str] = DTYPES,
    configs: Sequence[str] = tuple(CONFIGS),
    starts: Sequence[str] = STARTS,
    tokenizer: PreTrainedTokenizerFast | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Cell]:
    """Yield the cells of the matrix. A dtype may be any of torch, by its name."""
    tokenizer = tokenizer or byte_tokenizer()
    for family in families:
        for dtype in dtypes:
            lm = tiny_model(family, tokenizer, dtype=getattr(torch, dtype))
            lm.model.to(device)
            for start in starts:
                # The turns before the compared one are greedy, the same for each config.
                theirs = GenerateMirror(lm.model)
                for config in configs:
                    with tempfile.TemporaryDirectory() as folder:
                        where = Path(folder) if start == "disk" else None
                        scenario = _Scenario(lm, theirs, where)
                        yield _cell(scenario, family, dtype, config, start)


def _cell(scenario: _Scenario, family: str, dtype: str, config: str, start: str) -> Cell:
    settings = CONFIGS[config]
    ids = scenario.prompt(start)
    ours, decided = scenario.generate(ids, settings)
    fresh = scenario.theirs.generate(ids, settings, None)
    reused = decided.reused_tokens
    bitwise: bool | None = None
    if not reused:
        bitwise = ours.equals(fresh, sampled=settings["do_sample"])
    elif (same := scenario.theirs.cache_of(ids[:reused])) is not None:
        theirs = scenario.theirs.generate(ids, settings, same)
        bitwise = ours.equals(theirs, sampled=settings["do_sample"])
    return Cell(
        family=family,
        dtype=dtype,
        config=config,
        start=start,
        decision=f"{decided.decision}:{decided.reason}",
        reused_tokens=reused,
        bitwise=bitwise,
        same_tokens_as_fresh=ours.tokens == fresh.tokens,
    )
