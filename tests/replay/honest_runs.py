"""Honest runs of every kind: random settings, caches, histories, resumes, forks, interventions."""

import random
import warnings
from dataclasses import dataclass
from typing import Any

import torch

import tokentape as tt
from tokentape.generation.errors import ForkWarning
from tokentape.recorder import Record
from tokentape.store import DatabaseStore

SAMPLERS: tuple[dict[str, Any], ...] = (
    {"do_sample": False},
    {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95},
    {"do_sample": True, "temperature": 1.4, "top_k": 0, "min_p": 0.02},
    {"do_sample": True, "typical_p": 0.9, "repetition_penalty": 1.1, "min_new_tokens": 2},
)
WORDS = ("norm", "layer", "head", "weight", "why", "how many", "compare", "again", "?", "and")


class Killed(BaseException):
    """Raised in place of a SIGKILL."""


@dataclass
class CutOff:
    """A log that stores this many events, then raises `Killed`."""

    store: DatabaseStore
    left: int

    def append(self, envelope: tt.Envelope, record: Record, **more: Any) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        self.store.append(envelope, record, **more)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self.store.put_blob(sha256, payload)


class HonestRun:
    """Records a run whose every choice is drawn from `seed`, and its fork if it has one."""

    def __init__(self, lm: tt.LoadedModel, store: DatabaseStore, seed: int) -> None:
        self._lm = lm
        self._store = store
        self._random = random.Random(seed)
        self._seed = seed
        self._asked = 0

    def record(self) -> list[tt.Recording]:
        """Record the run; return it, and its fork."""
        draw = self._random
        turns = draw.randint(2, 4)
        # Two threads of a busy machine wait for each other.
        threads = draw.choice((*[None] * 18, 1, 2))
        left = draw.choice((10**6, draw.randint(8, 90)))
        try:
            with self._begin(CutOff(self._store, left), threads) as run:
                self._converse(run, turns)
        except Killed:
            self._resume(turns)
        run_ids = [self._store.summaries()[-1].run_id]
        if draw.random() < 0.3 and self._store.recording(run_ids[0]).turns():
            run_ids += self._fork(run_ids[0])
        recordings = [self._store.recording(run_id) for run_id in run_ids]
        return [each for each in recordings if any(turn.tokens for turn in each.turns())]

    def _begin(self, log: CutOff, threads: int | None) -> tt.Investigation:
        draw = self._random
        limit: dict[str, Any] = draw.choice(
            ({}, {}, {"at_context_limit": "prune_turns", "context_budget_tokens": 420})
        )
        return tt.Investigation(
            self._lm,
            store=log,
            name="honest",
            system_prompt=draw.choice(("Be kind and brief.", "", "You measure. " * 12)),
            tools=tt.default_tools(self._lm),
            seed=self._seed,
            history=draw.choice(("exact", "exact", "template")),
            prefill_chunk_tokens=draw.choice((None, 3, 16, 17, 512)),
            cache_bytes=draw.choice((8 * 1024**3, 300_000, 40_000)),
            top_logprobs=draw.choice((0, 1, 5, 8)),
            threads=threads,
            **limit,
        )

    def _resume(self, turns: int) -> None:
        run_id = self._store.summaries()[-1].run_id
        resumed = tt.Investigation.resume(
            self._store, run_id, self._lm, tools=tt.default_tools(self._lm)
        )
        with resumed as run:
            self._converse(run, max(turns, run.generator.turn + 1))

    def _fork(self, run_id: str) -> list[str]:
        last = self._store.recording(run_id).turns()[-1].number
        with warnings.catch_warnings():
            # A fork without the interventions that its parent requested last is an honest run, too.
            warnings.simplefilter("ignore", ForkWarning)
            fork = tt.Investigation.fork(
                self._store,
                run_id,
                self._lm,
                at_turn=self._random.randint(1, last),
                tools=tt.default_tools(self._lm),
                prefill_chunk_tokens=self._random.choice((None, 5, 64)),
            )
        with fork as run:
            self._converse(run, run.generator.turn + 1)
        return [fork.run_id]

    def _converse(self, run: tt.Investigation, turns: int) -> None:
        while run.generator.turn < turns:
            self._change_interventions(run)
            try:
                self._ask(run)
            except tt.PromptError:  # its budget is too small for this message
                return

    def _ask(self, run: tt.Investigation) -> None:
        draw = self._random
        layer = next(name for name, each in self._lm.model.named_parameters() if each.dim() == 2)
        look = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": layer})
        self._asked += 1
        run.chat(
            " ".join(draw.choices(WORDS, k=draw.randint(1, 9))),
            tool_calls=[look] if draw.random() < 0.2 else [],
            max_new_tokens=draw.randint(1, 7),
            use_cache=draw.random() > 0.15,
            **draw.choice(SAMPLERS),
        )

    def _change_interventions(self, run: tt.Investigation) -> None:
        draw = self._random
        if draw.random() > 0.25 or not _can_be_steered(self._lm):
            return
        width, layers = self._lm.model.config.hidden_size, len(self._lm.model.model.layers)
        vector = torch.randn(width, generator=torch.Generator().manual_seed(draw.randint(0, 99)))
        steer = tt.Intervention.steer("steered", draw.randrange(layers), vector)
        clear_cache = draw.random() < 0.3
        try:
            run.generator.intervene(steer, clear_cache=clear_cache)
        except tt.ModelError:  # it is steered already
            run.generator.withdraw("steered", clear_cache=clear_cache)


def _can_be_steered(lm: tt.LoadedModel) -> bool:
    return hasattr(getattr(lm.model, "model", None), "layers")
