"""Seconds to verify many small tapes: one by one as a loop does, and in bulk."""

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokentape as tt
from tokentape.replay.bulk.pool import batches, verify_in_processes
from tokentape.replay.bulk.sources import BulkOutcome, BulkSettings, RunSource
from tokentape.replay.bulk.verifier import BulkVerifier
from tokentape.store import DatabaseStore

SYSTEM_PROMPT = "You are a careful assistant. Answer in one short sentence."
_QUESTION = (
    "the norms of layer three look odd, the attention of head five sees only the first token, and "
    "gradients vanish slowly: which of these would you look at before the others, and why?"
)
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkFigures:
    """The time of a tape in each way."""

    tapes: int
    distinct: int
    """Recordings that the tapes are copies of, under run ids of their own."""
    tokens_mean: float
    """Tokens of prompt and reply."""
    one_by_one_tapes: int
    """Tapes that were verified one by one, in several stretches between the others."""
    one_by_one_s: tuple[float, ...]
    """Seconds a tape, of each stretch."""
    one_by_one_cpu_s: float
    """Seconds of a core a tape, which other work on the machine does not lengthen; as below."""
    in_bulk_s: float
    """Seconds a tape in one process, without loading the model."""
    in_bulk_cpu_s: float
    jobs: int
    with_jobs_s: float
    """Seconds a tape in several processes, with their start and loading the model in each."""
    with_jobs_cpu_s: float
    """Of all processes together."""
    verdicts: tuple[str, ...]
    """All verdicts that any way gave."""

    @property
    def bulk_ratio(self) -> float:
        """How many times faster one process is in bulk."""
        return statistics.median(self.one_by_one_s) / self.in_bulk_s

    @property
    def jobs_ratio(self) -> float:
        """How many times faster several processes are."""
        return statistics.median(self.one_by_one_s) / self.with_jobs_s

    def to_json(self) -> dict[str, Any]:
        """Return the figures with their ratios."""
        ratios = {
            "bulk_ratio": self.bulk_ratio,
            "bulk_cpu_ratio": self.one_by_one_cpu_s / self.in_bulk_cpu_s,
            "jobs_ratio": self.jobs_ratio,
        }
        return asdict(self) | ratios


def record_tapes(
    lm: tt.LoadedModel, folder: Path, *, distinct: int, count: int, tick: Callable[[], None]
) -> list[Path]:
    """Write tapes of one turn each: `distinct` recordings, and copies of them up to `count`."""
    tapes: list[Path] = []
    for number in range(distinct):
        with tt.open_store("sqlite://") as store:
            assert isinstance(store, DatabaseStore)
            recording = _record(lm, store, number)
            for copy in range(number, count, distinct):
                run_id = recording.run_id if copy == number else _copy(recording, store)
                tape = folder / f"{copy:05}.tape"
                tapes.append(tt.pack([store.recording(run_id)], store, tape))
                tick()
    return sorted(tapes)


def _copy(recording: tt.Recording, store: DatabaseStore) -> str:
    """Record the events of a run again; return the id of the new run."""
    recorder = tt.Recorder(store)
    for envelope in recording.events():
        recorder.record(envelope.event)
    return recorder.run_id


def _record(lm: tt.LoadedModel, store: DatabaseStore, number: int) -> tt.Recording:
    """Record a question of up to 25 words and a reply of 14 to 26 tokens."""
    words = " ".join(_QUESTION.split()[: 10 + number % 16])
    with tt.Investigation(
        lm, store=store, name=f"small {number}", system_prompt=SYSTEM_PROMPT, seed=number
    ) as run:
        run.chat(f"Question {number}: {words}", max_new_tokens=14 + number % 13, **SAMPLED)
    return store.recording(run.run_id)


def measure_bulk(
    lm: tt.LoadedModel,
    tapes: Sequence[Path],
    *,
    distinct: int,
    one_by_one: int,
    jobs: int,
    stretches: int = 4,
    tick: Callable[[int], None] = lambda tapes: None,
) -> BulkFigures:
    """Verify tapes one by one, in bulk, and in bulk by several processes.

    `one_by_one` of the tapes are verified one by one, some before, between and after the parts of
    the others, so that other work on the machine slows both.
    """
    lm.identity.described()  # weights are hashed once for each model
    size = max(1, one_by_one // stretches)
    alone_s: list[float] = []
    verdicts: set[str] = set()
    parts = [tapes[start::stretches] for start in range(stretches)]
    bulk_s = bulk_cpu_s = alone_cpu_s = 0.0
    verifier = BulkVerifier(BulkSettings())
    verifier.verify(_sources(tapes[:1]))  # loads the model
    lengths: list[int] = []
    for part in parts:
        began, cpu_s = time.perf_counter(), time.process_time()
        for tape in part[:size]:
            with tt.open_store(tape, must_exist=True) as store:
                recording = store.recording(store.summaries()[0].run_id)
                verdicts.add(tt.verify(recording, lm).verdict)
            tick(1)
        alone_s.append((time.perf_counter() - began) / len(part[:size]))
        alone_cpu_s += time.process_time() - cpu_s
        lengths += [_tokens(tape) for tape in part[:size]]
        began, cpu_s = time.perf_counter(), time.process_time()
        for batch in batches(len(part), 1):
            found = verifier.verify(_sources([part[index] for index in batch]))
            verdicts |= _verdicts(found)
            tick(len(batch))
        bulk_s += time.perf_counter() - began
        bulk_cpu_s += time.process_time() - cpu_s
    began, cpu_s = time.perf_counter(), _cpu_of_children_s()
    for _, outcomes in verify_in_processes(_sources(tapes), BulkSettings(), jobs):
        verdicts |= _verdicts([outcomes])
        tick(1)
    with_jobs_s = time.perf_counter() - began
    with_jobs_cpu_s = _cpu_of_children_s() - cpu_s
    return BulkFigures(
        tapes=len(tapes),
        distinct=distinct,
        tokens_mean=statistics.mean(lengths),
        one_by_one_tapes=len(lengths),
        one_by_one_s=tuple(alone_s),
        one_by_one_cpu_s=alone_cpu_s / len(lengths),
        in_bulk_s=bulk_s / len(tapes),
        in_bulk_cpu_s=bulk_cpu_s / len(tapes),
        jobs=jobs,
        with_jobs_s=with_jobs_s / len(tapes),
        with_jobs_cpu_s=with_jobs_cpu_s / len(tapes),
        verdicts=tuple(sorted(verdicts)),
    )


def _cpu_of_children_s() -> float:
    """Return the time that processes which have ended took of all cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _sources(tapes: Sequence[Path]) -> list[RunSource]:
    return [RunSource(store=str(tape)) for tape in tapes]


def _verdicts(found: Sequence[Sequence[BulkOutcome]]) -> set[str]:
    return {
        str(each.report.verdict) if each.report is not None else each.error
        for group in found
        for each in group
    }


def _tokens(tape: Path) -> int:
    with tt.open_store(tape, must_exist=True) as store:
        (turn,) = store.recording(store.summaries()[0].run_id).turns()
    return len(turn.prompt_ids) + len(turn.tokens)
