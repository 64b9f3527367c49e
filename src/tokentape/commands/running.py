"""The command `run`: record an experiment plan, or several plans with several seeds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.completion import complete_plan
from tokentape.commands.investigations import (
    NameOption,
    NewTokensOption,
    print_run,
    recording_store,
    resume_hint,
)
from tokentape.commands.many_runs import (
    BatchOption,
    SeedsOption,
    chosen_places,
    parsed_batch,
    parsed_seeds,
    report_results,
)
from tokentape.commands.options import (
    JsonOption,
    ModelOption,
    StoreOption,
    load_named_model,
    loads_model,
)
from tokentape.commands.tool_files import (
    ToolsFileOption,
    available_tools,
    options_to_resume,
    read_tools_file,
    run_tools_file,
)
from tokentape.runs_bar import runs_bar
from tokentape.screen import err, out, stdout_on_stderr
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from pathlib import Path

    from tokentape.generation.models.loading_settings import LoadingKeywords
    from tokentape.generation.plans import ExperimentPlan, PlannedRun
    from tokentape.generation.plans.batch_size import RunsAtOnce
    from tokentape.generation.tools.tools_file import ToolsFile

PlansArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PLAN",
        help="A plan that --list shows, or a YAML file; or several.",
        autocompletion=complete_plan,
    ),
]


@loads_model
def run(
    *,
    plans: PlansArgument = None,
    model: ModelOption = "smollm2-demo",
    loading: "LoadingKeywords",
    store: StoreOption = DEFAULT_URL,
    seed: Annotated[
        int | None, typer.Option(help="The seed of the run; default: the plan's.")
    ] = None,
    seeds: SeedsOption = None,
    batch: BatchOption = None,
    turns: Annotated[int | None, typer.Option(min=1, help="Run only this many turns.")] = None,
    max_new_tokens: NewTokensOption = None,
    name: NameOption = None,
    tools: ToolsFileOption = None,
    list_plans: Annotated[
        bool, typer.Option("--list", help="List the plans that come with tokentape.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run an experiment plan to its end, unattended, and record it; or several, with many seeds.

    Several are reported in a line each. One that fails does not end the others, and the exit code
    is that of its error. Exit code 130: interrupted by Ctrl-C; 143 and 129: by SIGTERM and SIGHUP.
    The message says how to resume.
    """
    if list_plans:
        _list_plans(as_json)
        return
    if not plans:
        raise typer.BadParameter("name a plan; --list shows the plans that come with tokentape")
    numbers, size = parsed_seeds(seeds), parsed_batch(batch)
    if numbers is not None and seed is not None:
        raise typer.BadParameter("give --seed for one run or --seeds for several, not both")
    if name is not None and (len(plans) > 1 or numbers is not None):
        raise typer.BadParameter("--name is for one run: several are named after plan and seed")
    from tokentape.generation.plans import load_plan

    chosen = [
        load_plan(each).with_overrides(seed=seed, turns_max=turns, max_new_tokens=max_new_tokens)
        for each in plans
    ]
    request = _Request(
        model=model,
        loading=loading,
        store=store,
        file=_tools_file(tools, plans, chosen),
        adds_tools=tools is not None,
        as_json=as_json,
    )
    if len(chosen) == 1 and numbers is None:
        _run_one(chosen[0], name, request)
        return
    from tokentape.generation.plans.planned_runs import planned_runs

    _run_several(planned_runs(chosen, numbers), numbers, size, request)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What all runs of the command share."""

    model: str
    loading: "LoadingKeywords"
    store: str
    file: "ToolsFile | None"
    adds_tools: bool
    """Whether the plans get the tools of the file in addition to their own."""
    as_json: bool

    def load(self) -> "tt.LoadedModel":
        """Run the file with tools, and load the model."""
        run_tools_file(self.file)
        return load_named_model(self.model, self.loading)

    def with_tools(self, plan: "ExperimentPlan", lm: "tt.LoadedModel") -> "ExperimentPlan":
        """Return the plan with the tools of the file that it gets."""
        if self.file is None or not self.adds_tools:
            return plan
        added = [each for each in self.file.tools(lm).names if each not in plan.tools]
        return plan.with_overrides(tools=(*plan.tools, *added), tools_file=self.file.name)


def _run_one(plan: "ExperimentPlan", name: str | None, request: _Request) -> None:
    store = request.store
    with resume_hint(store, options_to_resume(request.loading, request.file)) as begun:
        lm = request.load()
        from tokentape.generation.plans import begin_plan

        available = available_tools(lm, request.file)
        plan = request.with_tools(plan, lm)
        with recording_store(store) as opened:
            investigation = begin_plan(plan, lm, opened, name=name, tools=available)
            begun(investigation.run_id)
            _run_turns(investigation, plan)
            recording = opened.recording(investigation.run_id)
            print_run(recording, store, request.as_json)


def _run_several(
    planned: "list[PlannedRun]", seeds: list[int] | None, batch: "RunsAtOnce", request: _Request
) -> None:
    """Run plans with seeds, show how far they are, and report how they ended."""
    needed = [*options_to_resume(request.loading, request.file), "--batch", str(batch)]
    with resume_hint(request.store, needed) as begun:
        lm = request.load()
        from tokentape.generation.plans import run_many

        own = {each.plan.name: each.plan for each in planned if each.plan is not None}
        plans = [request.with_tools(each, lm) for each in own.values()]
        places = chosen_places(batch, plans, lm, runs=len(planned))
        with recording_store(request.store) as opened, runs_bar(planned, begun) as bar:
            results = run_many(
                plans,
                lm,
                opened,
                seeds=seeds,
                batch=places,
                tools=lambda plan: available_tools(lm, request.file),
                progress=bar.update,
                callback=bar.token,
            )
    report_results(results, request.store, request.as_json)


def _run_turns(investigation: "tt.Investigation", plan: "ExperimentPlan") -> None:
    from tokentape.generation.plans import run_plan
    from tokentape.turns_bar import plan_bar

    with investigation, plan_bar(plan) as bar, stdout_on_stderr():
        run_plan(
            investigation,
            plan,
            progress=lambda turn, reply: bar.turn(reply),
            callback=bar.token,
        )


def _tools_file(
    tools: "Path | None", names: list[str], plans: "list[ExperimentPlan]"
) -> "ToolsFile | None":
    """Read the file of `--tools`, else that of the plans. Raise BadParameter if they have two."""
    from tokentape.generation.plans import plan_tools_path

    if tools is not None:
        return read_tools_file(tools)
    pairs = zip(names, plans, strict=True)
    named = {plan_tools_path(name, plan): name for name, plan in pairs if plan.tools_file}
    if len(named) > 1:
        files = " and ".join(str(each) for each in named)
        raise typer.BadParameter(f"the plans name the tools of {files}: run them one after another")
    for path, name in named.items():
        file = read_tools_file(path)
        if file is not None:
            err.line(f"running the code of {file.path}, which {name} names")
        return file
    return None


def _list_plans(as_json: bool) -> None:
    from tokentape.generation.plans import shipped_plans

    rows = [(each.name, len(each.turns()), each.description) for each in shipped_plans()]
    if as_json:
        names = ("name", "turns", "description")
        output.print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    out.lines(f"{name}  {turns} turns  {text}" for name, turns, text in rows)
