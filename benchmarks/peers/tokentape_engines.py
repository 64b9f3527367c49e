"""tokentape: investigations recorded into SQLite, one alone and many at once."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokentape as tt
from benchmarks.peers.token_times import TokenTimes
from benchmarks.peers.workload import NO_END, SAMPLING, SYSTEM_PROMPT, DecodeTask
from benchmarks.stores import open_file_store
from tokentape.generation.plans import ExperimentPlan, begin_plan, run_plan
from tokentape.store import DatabaseStore

Stamp = Callable[[], None]
"""Called when a token was sampled."""
Job = Callable[[Stamp], None]
"""An investigation, from its first token to its last."""
Jobs = Callable[[], AbstractContextManager[tuple[Job, ...]]]
"""Opens a new file and yields the investigations that are recorded into it."""


def run_alone(job: Job) -> TokenTimes:
    """Run one investigation outside of any batch."""
    at_s: list[float] = []
    began = time.perf_counter()
    job(lambda: at_s.append(time.perf_counter()))
    return TokenTimes(began_s=began, ended_s=time.perf_counter(), at_s=(tuple(at_s),))


def run_together(lm: tt.LoadedModel, jobs: Sequence[Job]) -> TokenTimes:
    """Run the investigations at once in one batch. Raise what a job raises."""
    at_s: list[list[float]] = [[] for _ in jobs]

    def run(job: Job, times: list[float]) -> None:
        job(lambda: times.append(time.perf_counter()))

    began = time.perf_counter()
    with tt.Batch(lm, size=len(jobs)) as batch:
        started = [batch.start(run, *each) for each in zip(jobs, at_s, strict=True)]
        for each in started:
            each.result()
    ended = time.perf_counter()
    return TokenTimes(began_s=began, ended_s=ended, at_s=tuple(map(tuple, at_s)))


@contextmanager
def decode_jobs(
    lm: tt.LoadedModel, folder: Path, tasks: Sequence[DecodeTask], new_tokens: int
) -> Iterator[tuple[Job, ...]]:
    """Yield an investigation of one turn for each task, all recorded into one new file."""
    with _new_store(folder) as store:
        yield tuple(_decode_job(lm, store, each, new_tokens) for each in tasks)


@contextmanager
def plan_jobs(
    lm: tt.LoadedModel, folder: Path, plan: ExperimentPlan, seeds: Sequence[int]
) -> Iterator[tuple[Job, ...]]:
    """Yield a run of the plan for each seed, all recorded into one new file."""
    with _new_store(folder) as store:
        yield tuple(_plan_job(lm, store, replace(plan, seed=each)) for each in seeds)


def short_plan(plan: ExperimentPlan, *, turns: int, new_tokens: int) -> ExperimentPlan:
    """Return a plan with only its first turns, and few tokens in each."""
    limits = replace(plan.limits, max_new_tokens=new_tokens, turns_max=turns)
    return replace(plan, limits=limits)


@contextmanager
def _new_store(folder: Path) -> Iterator[DatabaseStore]:
    number = len(list(folder.glob("*.db")))
    with open_file_store(folder / f"runs-{number}.db") as store:
        yield store


def _decode_job(lm: tt.LoadedModel, store: DatabaseStore, task: DecodeTask, new_tokens: int) -> Job:
    lengths: Mapping[str, Any] = {"max_new_tokens": new_tokens, "eos_token_id": NO_END}

    def job(stamp: Stamp) -> None:
        with tt.Investigation(
            lm, store=store, name="batch", system_prompt=SYSTEM_PROMPT, seed=task.seed
        ) as run:
            run.chat(task.question, callback=_stamping(stamp), **lengths, **SAMPLING)

    return job


def _plan_job(lm: tt.LoadedModel, store: DatabaseStore, plan: ExperimentPlan) -> Job:
    def job(stamp: Stamp) -> None:
        with begin_plan(plan, lm, store) as run:
            run_plan(run, plan, callback=_stamping(stamp))

    return job


def _stamping(stamp: Stamp) -> Callable[[int, Any], None]:
    return lambda token_id, logits: stamp()
