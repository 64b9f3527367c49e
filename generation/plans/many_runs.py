"""Run several experiment plans, or one with several seeds: one by one, or in a batch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokentape.generation.batch import Batch
from tokentape.generation.errors import PromptError
from tokentape.generation.introspection.toolset import default_tools
from tokentape.generation.investigation.investigation import Investigation, RunStore
from tokentape.generation.investigation.reply import Reply
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.plans.batch_size import RunsAtOnce, check_batch, fitting_batch
from tokentape.generation.plans.plan import ExperimentPlan, PlanTurn
from tokentape.generation.plans.planned_runs import (
    Plan,
    PlannedRun,
    PlanResult,
    RunUpdate,
    planned_runs,
)
from tokentape.generation.plans.runner import begin_plan, check_plan, run_plan
from tokentape.generation.run_settings import RunSettings
from tokentape.generation.tools.interface import ToolInterface
from tokentape.recorder import EventLog, Recording
from tokentape.recorder.events import RunStarted
from tokentape.recorder.events.run import FORK_CONTINUES
from tokentape.recorder.listed_keywords import suggests_keywords

ManyProgress = Callable[[RunUpdate], None]
ManyCallback = Callable[[PlannedRun, int, Any], None]


@suggests_keywords
def run_many(
    plans: Plan | Iterable[Plan],
    lm: LoadedModel,
    store: EventLog,
    *,
    seeds: Iterable[int] | None = None,
    batch: RunsAtOnce = 1,
    tools: Callable[[ExperimentPlan], ToolInterface] | None = None,
    progress: ManyProgress | None = None,
    callback: ManyCallback | None = None,
) -> list[PlanResult]:
    """Run each plan with each seed, and return the results in that order.

    `plans` are names, files or plans that are loaded. Each run is recorded as one of its own, with
    its seed, and named after both: `demo-seed3`; without `seeds` a plan has its own. With a `batch`
    of 8, 8 runs advance together, a token of each in a forward, and another begins when one ends;
    "auto" is as many as fit into memory, see `fitting_batch`. An error ends its run only: it is in
    the result.

    `tools` is called for each run, since tools may see its conversation; default: the default
    tools. `progress` is called with a `RunUpdate` when a run began, had a turn and ended;
    `callback` with the run, the id and the logits of each token, both in the thread of the run:
    that is one of several in a batch. Ctrl-C, SIGTERM and SIGHUP end each run after its next token,
    and are raised: `resume_many` continues the runs that had begun.

    Raise PromptError, before anything is recorded, for a plan that does not fit the model, and for
    plans and seeds that are missing or given twice.

    Example:
        >>> import tokentape as tt
        >>> plan = tmp_path / "greet.yaml"
        >>> text = "{name: greet, system_prompt: Be brief, tasks: [{title: A, turns: [Hello]}]}"
        >>> length = plan.write_text(text)
        >>> results = tt.run_many(plan, lm, store, seeds=[1, 2])
        >>> [(each.name, each.status) for each in results]
        [('greet-seed1', 'finished'), ('greet-seed2', 'finished')]
    """
    runs = planned_runs(plans, seeds)
    batch = check_batch(batch)
    if isinstance(tools, ToolInterface):
        raise PromptError("tools are made for each run: give a function, tools=lambda plan: …")
    make_tools = tools or (lambda plan: default_tools(lm))
    distinct = {each.plan.name: each.plan for each in runs if each.plan is not None}
    for plan in distinct.values():
        check_plan(plan, lm, make_tools(plan))

    def begin(run: PlannedRun) -> Investigation:
        assert run.plan is not None
        return begin_plan(run.plan, lm, store, name=run.name, tools=make_tools(run.plan))

    members = [_Member(run=run, begin=partial(begin, run)) for run in runs]
    if batch == "auto":
        batch = fitting_batch(distinct.values(), lm, runs=len(runs)).runs
    return _run_members(members, lm, batch, partial(_drive, progress=progress, callback=callback))


@suggests_keywords
def resume_many(
    run_ids: Iterable[str],
    lm: LoadedModel,
    store: RunStore,
    *,
    batch: RunsAtOnce = 1,
    tools: Callable[[RunStarted], ToolInterface | None] | None = None,
    progress: ManyProgress | None = None,
    callback: ManyCallback | None = None,
) -> list[PlanResult]:
    """Resume runs: finish their turns, and run the rest of their plans. Return the results.

    `tools` is called with the beginning of each run; default: those of the default tools that the
    run had. A run that cannot be resumed has the error in its result, and so has a fork that sends
    the messages of its parent: `tokentape resume` continues it. Otherwise as `run_many`. Raise
    NoSuchRunError for an unknown run, PromptError for none and for one that is named twice.

    Example:
        >>> import tokentape as tt
        >>> (result,) = tt.resume_many([run_id], lm, store)
        >>> result.run_id == run_id, result.status
        (True, 'finished')
    """
    batch = check_batch(batch)
    recordings = [store.recording(each) for each in run_ids]
    if not recordings:
        raise PromptError("there is no run to resume: name at least one")
    if len({each.run_id for each in recordings}) < len(recordings):
        raise PromptError("a run is named twice: a run has one writer")
    make_tools = tools or partial(_recorded_tools, lm)

    def begin(run_id: str, started: RunStarted) -> Investigation:
        forked = store.recording(run_id).forked()
        if forked is not None and forked.changes.get(FORK_CONTINUES) is True:
            raise PromptError(f"run {run_id} sends the messages of its parent: resume it alone")
        return Investigation.resume(store, run_id, lm, tools=make_tools(started))

    runs = resumed_runs(recordings)
    members = [
        _Member(
            run=run,
            begin=partial(begin, recording.run_id, recording.started()),
            run_id=recording.run_id,
        )
        for run, recording in zip(runs, recordings, strict=True)
    ]
    if batch == "auto":
        found = [each.plan for each in runs if each.plan is not None]
        batch = fitting_batch(found, lm, runs=len(runs)).runs
    return _run_members(members, lm, batch, partial(_drive, progress=progress, callback=callback))


def resumed_runs(recordings: Iterable[Recording]) -> list[PlannedRun]:
    """Return recorded runs with what is known of them before they continue."""
    runs = []
    for recording in recordings:
        started = recording.started()
        described = RunSettings.from_record(started.settings).plan
        plan = None if described is None else ExperimentPlan.from_described(described)
        runs.append(PlannedRun(name=started.name, plan=plan, seed=started.seed))
    return runs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    run: PlannedRun
    begin: Callable[[], Investigation]
    """Sets the run up, or raises."""
    run_id: str = ""
    """Of a run that is resumed."""


def _drive(
    member: _Member, *, progress: ManyProgress | None, callback: ManyCallback | None
) -> PlanResult:
    """Run one of the runs to its end, and return how it ended."""
    run, run_id, replies = member.run, member.run_id, list[Reply]()
    error: Exception | None = None

    def tell(update: RunUpdate) -> None:
        if progress is not None:
            progress(update)

    def had_turn(turn: PlanTurn, reply: Reply) -> None:
        replies.append(reply)
        tell(RunUpdate(stage="turn", run=run, run_id=run_id, turn=turn, reply=reply))

    try:
        investigation = member.begin()
        run_id = investigation.run_id
        done = investigation.generator.turn
        tell(RunUpdate(stage="began", run=run, run_id=run_id, turns_done=done))
        with investigation:
            if investigation.resumed_reply is not None:
                replies.append(investigation.resumed_reply)
            if run.plan is not None:
                heard = None if callback is None else partial(callback, run)
                run_plan(investigation, run.plan, progress=had_turn, callback=heard)
    except Exception as raised:  # also of a tool, a callback or the store: it ends this run only
        error = raised
    result = PlanResult(
        plan=run.plan,
        seed=run.seed,
        name=run.name,
        run_id=run_id,
        replies=tuple(replies),
        error=error,
    )
    tell(RunUpdate(stage="ended", run=run, run_id=run_id, result=result))
    return result


def _run_members(
    members: Sequence[_Member], lm: LoadedModel, size: int, drive: Callable[[_Member], PlanResult]
) -> list[PlanResult]:
    """Drive all members, at most `size` at a time, and return their results in order."""
    size = min(size, len(members))
    if size == 1:
        return [drive(each) for each in members]
    waiting = deque(enumerate(members))
    results: dict[int, PlanResult] = {}

    def work() -> None:
        try:
            for place, member in _taken(waiting):
                results[place] = drive(member)
        except BaseException:
            waiting.clear()  # no other run begins
            raise

    with Batch(lm, size=size) as batch:
        jobs = [batch.start(work) for _ in range(size)]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            waiting.clear()
            raise
    return [results[place] for place in range(len(members))]


def _taken(waiting: "deque[tuple[int, _Member]]") -> Iterator[tuple[int, _Member]]:
    """Yield the members that still wait, which other threads take, too."""
    with suppress(IndexError):
        while True:
            yield waiting.popleft()


def _recorded_tools(lm: LoadedModel, started: RunStarted) -> ToolInterface | None:
    """Return the default tools that a run had; None if it had none."""
    if not started.tools:
        return None
    available = default_tools(lm)
    return available.only(name for name in started.tools if name in available.names)
