"""Runs of experiment plans that belong together: each plan with each seed, and their results."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tokentape.generation.checks import check_seed
from tokentape.generation.errors import PromptError
from tokentape.generation.plans.files import load_plan
from tokentape.generation.plans.plan import ExperimentPlan, PlanTurn

if TYPE_CHECKING:
    from tokentape.generation.investigation.reply import Reply

Plan = ExperimentPlan | str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One of several runs, before it begins."""

    name: str
    """The name of the run: that of its plan, with `-seed3` after it where seeds are given."""
    plan: ExperimentPlan | None
    """With the seed of the run; None for a resumed run that has no plan."""
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """How one of several runs ended."""

    plan: ExperimentPlan | None
    """With the seed of the run; None for a resumed run that has no plan."""
    seed: int | None
    name: str
    run_id: str
    """Empty if the run could not be set up."""
    replies: "tuple[Reply, ...]"
    """Those of the turns that finished; of a resumed run, those since then."""
    error: Exception | None
    """What ended the run early; it can be resumed."""

    @property
    def status(self) -> Literal["finished", "failed"]:
        """Whether the run came to the end of its plan."""
        return "finished" if self.error is None else "failed"

    @property
    def generated_tokens(self) -> int:
        """Tokens of the replies."""
        return sum(len(reply.token_ids) for reply in self.replies)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunUpdate:
    """What happened to one of several runs."""

    stage: Literal["began", "turn", "ended"]
    run: PlannedRun
    run_id: str
    turn: PlanTurn | None = None
    """The turn that finished."""
    reply: "Reply | None" = None
    """The reply of that turn."""
    result: PlanResult | None = None
    """How the run ended."""
    turns_done: int = 0
    """Turns that a resumed run had before it began again."""


def planned_runs(
    plans: Plan | Iterable[Plan], seeds: Iterable[int] | None = None
) -> list[PlannedRun]:
    """Return the runs of each plan with each seed, in this order; without seeds, with the plan's.

    Raise PromptError if there is no plan or no seed, for a plan or a seed that is given twice, for
    two plans of one name, and for what is neither a plan nor a seed.
    """
    loaded = [each if isinstance(each, ExperimentPlan) else load_plan(each) for each in _all(plans)]
    if not loaded:
        raise PromptError("there is no plan to run: name at least one")
    name, count = Counter(plan.name for plan in loaded).most_common(1)[0]
    if count > 1:
        raise PromptError(f"{count} plans are called {name!r}: give each plan once, with seeds")
    if seeds is None:
        return [PlannedRun(name=plan.name, plan=plan, seed=plan.seed) for plan in loaded]
    chosen = checked_seeds(seeds)
    return [
        PlannedRun(name=f"{plan.name}-seed{seed}", plan=plan.with_overrides(seed=seed), seed=seed)
        for plan in loaded
        for seed in chosen
    ]


def checked_seeds(seeds: Iterable[int]) -> list[int]:
    """Return seeds as plain numbers. Raise PromptError for none, for another and a second one."""
    given: object = seeds
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise PromptError(f"seeds are whole numbers, such as range(1, 9), not {given!r}")
    chosen = [check_seed(each) for each in seeds]
    found = [each for each in chosen if each is not None]
    if not chosen or len(found) < len(chosen):
        raise PromptError("give at least one seed, and no None among them")
    seed, count = Counter(found).most_common(1)[0]
    if count > 1:
        raise PromptError(f"seed {seed} is given {count} times: its runs would be the same")
    return found


def _all(plans: Plan | Iterable[Plan]) -> list[Plan]:
    if isinstance(plans, ExperimentPlan | str | os.PathLike):
        return [plans]
    return list(plans)
