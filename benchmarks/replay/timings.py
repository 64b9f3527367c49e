"""Seconds of `rebuild`, `verify` and `regenerate` over the demo's 20 turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import tokentape as tt
from tokentape.demo import record_plan
from tokentape.generation.plans import load_plan
from tokentape.store import DatabaseStore

VERIFICATIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFigures:
    """The time of one turn."""

    turn: int
    prompt_tokens: int
    tokens: int
    sampled: bool
    generated_s: float
    """When it was recorded."""
    regenerated_s: float
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayFigures:
    """The time of every replay of one run."""

    turns: tuple[TurnFigures, ...]
    verifications_s: tuple[float, ...]
    """Of each verification of the whole run, spread between the regenerations."""
    verdict: str
    """The first verdict of a verification that is not `verified`, or `verified`."""
    rebuild_s: float

    @property
    def verify_s(self) -> float:
        """Return the median verification."""
        return statistics.median(self.verifications_s)

    @property
    def regenerate_s(self) -> float:
        """Return the sum over the turns."""
        return sum(each.regenerated_s for each in self.turns)

    @property
    def generate_s(self) -> float:
        """Return the sum over the turns when they were recorded."""
        return sum(each.generated_s for each in self.turns)

    @property
    def passes(self) -> bool:
        """Return whether the run was verified and every turn regenerated exactly."""
        return self.verdict == "verified" and all(each.verdict == "exact" for each in self.turns)


def record_demo(lm: tt.LoadedModel, store: DatabaseStore) -> tt.Recording:
    """Record the demo's 20 turns."""
    run_id, _, _ = record_plan(lm, store, load_plan("demo"))
    return store.recording(run_id)


def measure_replays(
    recording: tt.Recording,
    lm: tt.LoadedModel,
    *,
    verifications: int = VERIFICATIONS,
    tick: Callable[[], None] = lambda: None,
) -> ReplayFigures:
    """Regenerate every turn; verify the whole run before, between and after."""
    began = time.perf_counter()
    tt.rebuild(recording)
    rebuild_s = time.perf_counter() - began
    # Weights are hashed once for each model; hash them before the clock starts.
    lm.identity.described()
    turns = [turn for turn in recording.turns() if turn.tokens]
    due = {round(index * len(turns) / max(1, verifications - 1)) for index in range(verifications)}
    seconds: list[float] = []
    verdicts: list[str] = []
    figures: list[TurnFigures] = []
    for done in range(len(turns) + 1):
        if done in due:
            report = tt.verify(recording, lm)
            seconds.append(report.duration_us / 1e6)
            verdicts.append(report.verdict)
            tick()
        if done == len(turns):
            break
        turn = turns[done]
        again = tt.regenerate(recording, lm, turns=[turn.number])
        figures.append(
            TurnFigures(
                turn=turn.number,
                prompt_tokens=len(turn.prompt_ids),
                tokens=len(turn.tokens),
                sampled=turn.started.seed is not None,
                generated_s=turn.finished.duration_us / 1e6 if turn.finished else 0.0,
                regenerated_s=again.duration_us / 1e6,
                verdict=again.verdict,
            )
        )
        tick()
    worst = next((each for each in verdicts if each != "verified"), "verified")
    return ReplayFigures(
        turns=tuple(figures),
        verifications_s=tuple(seconds),
        verdict=worst,
        rebuild_s=rebuild_s,
    )
