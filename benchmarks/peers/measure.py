"""Rounds of tokentape and its peers, with one sequence and with several at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tokentape as tt
from benchmarks.peers.bandwidth import weights_once
from benchmarks.peers.llama_cpp import LlamaCpp, demo_gguf, float32_copy
from benchmarks.peers.rounds import EngineRounds, Measure, run_rounds
from benchmarks.peers.token_times import TokenTimes
from benchmarks.peers.tokentape_engines import (
    Jobs,
    decode_jobs,
    plan_jobs,
    run_alone,
    run_together,
    short_plan,
)
from benchmarks.peers.transformers_engines import (
    forward_loop,
    generate_continuous,
    generate_padded,
)
from benchmarks.peers.workload import decode_tasks
from benchmarks.rivals.environment import RivalMissingError
from tokentape.generation.plans import load_plan

ALONE, OURS = "tokentape, one alone", "tokentape, batch"
FRESH, LOOP, WEIGHTS = "generate", "bare forward loop", "reading the weights once"
PADDED, CONTINUOUS = "generate, padded batch", "generate_batch"
FLOAT32, Q4_1 = "llama.cpp, float32", "llama.cpp, Q4_1"
_WARM_TOKENS = 4
Tick = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaEngines:
    """llama.cpp with the demo model as float32 and as Q4_1, or why there is none."""

    engines: dict[str, LlamaCpp]
    missing: dict[str, str]

    @classmethod
    def install(cls, home: Path, notify: Callable[[str], None]) -> "LlamaEngines":
        """Install llama.cpp into an environment in `home`, and write the float32 file there."""
        try:
            source = demo_gguf()
            files = {FLOAT32: float32_copy(source, home, notify), Q4_1: source}
            engines = {name: LlamaCpp.install(each, home, notify) for name, each in files.items()}
        except (RivalMissingError, tt.ModelError, OSError) as error:
            return cls(engines={}, missing=dict.fromkeys((FLOAT32, Q4_1), str(error)))
        return cls(engines=engines, missing={})


def measure_single(
    lm: tt.LoadedModel,
    llama: LlamaEngines,
    folder: Path,
    *,
    new_tokens: int,
    rounds: int,
    tick: Tick = lambda: None,
) -> EngineRounds:
    """Decode one prompt in every engine: sampled, and greedily in the bare loop."""
    tasks = decode_tasks(lm, 1)
    engines: dict[str, Measure] = {
        ALONE: partial(_alone, partial(decode_jobs, lm, folder, tasks, new_tokens)),
        FRESH: partial(generate_padded, lm, tasks, new_tokens),
        LOOP: partial(forward_loop, lm, tasks[0].ids, new_tokens),
        WEIGHTS: partial(weights_once, lm, new_tokens),
    }
    for name, each in llama.engines.items():
        engines[name] = partial(each.run, tasks, new_tokens)
    _warm_up(lm, folder)
    return run_rounds(engines, rounds, missing=llama.missing, tick=tick)


def measure_decode_at_once(
    lm: tt.LoadedModel,
    llama: LlamaEngines,
    folder: Path,
    *,
    sequences: int,
    new_tokens: int,
    rounds: int,
    tick: Tick = lambda: None,
) -> EngineRounds:
    """Decode prompts of different lengths at once, sampled, and one of middle length alone."""
    tasks = decode_tasks(lm, sequences)
    one = partial(decode_jobs, lm, folder, decode_tasks(lm, 1), new_tokens)
    engines: dict[str, Measure] = {
        ALONE: partial(_alone, one),
        PADDED: partial(generate_padded, lm, tasks, new_tokens),
        CONTINUOUS: partial(generate_continuous, lm, tasks, new_tokens),
    }
    if FLOAT32 in llama.engines:
        engines[FLOAT32] = partial(llama.engines[FLOAT32].run, tasks, new_tokens)
    missing = {name: each for name, each in llama.missing.items() if name == FLOAT32}
    engines[OURS] = partial(_together, lm, partial(decode_jobs, lm, folder, tasks, new_tokens))
    _warm_up(lm, folder)
    return run_rounds(engines, rounds, missing=missing, tick=tick)


def measure_plans_at_once(
    lm: tt.LoadedModel,
    folder: Path,
    *,
    seeds: Sequence[int],
    turns: int,
    new_tokens: int,
    rounds: int,
    tick: Tick = lambda: None,
) -> EngineRounds:
    """Run the first turns of the demo's plan with each seed at once, and with one seed alone."""
    plan = short_plan(load_plan("demo"), turns=turns, new_tokens=new_tokens)
    engines: dict[str, Measure] = {
        ALONE: partial(_alone, partial(plan_jobs, lm, folder, plan, seeds[:1])),
        OURS: partial(_together, lm, partial(plan_jobs, lm, folder, plan, seeds)),
    }
    # Weights are hashed once for each model; hash them before the clock starts.
    lm.identity.described()
    return run_rounds(engines, rounds, tick=tick)


def _alone(jobs: Jobs) -> TokenTimes:
    with jobs() as (job,):
        return run_alone(job)


def _together(lm: tt.LoadedModel, jobs: Jobs) -> TokenTimes:
    with jobs() as several:
        return run_together(lm, several)


def _warm_up(lm: tt.LoadedModel, folder: Path) -> None:
    """Run each engine in this process once, with few tokens."""
    tasks = decode_tasks(lm, 2)
    _alone(partial(decode_jobs, lm, folder, tasks[:1], _WARM_TOKENS))
    generate_padded(lm, tasks, _WARM_TOKENS)
    forward_loop(lm, tasks[0].ids, _WARM_TOKENS)
    _together(lm, partial(decode_jobs, lm, folder, tasks, _WARM_TOKENS))
