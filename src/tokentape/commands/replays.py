"""The commands `verify`, `retrace`, `regenerate` and `calibrate`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.bulk import (
    BulkOptions,
    EngineOption,
    JobsOption,
    RayAddressOption,
    check_one_run_options,
    check_ray_address,
    is_bulk,
    verify_runs,
)
from tokentape.commands.options import (
    JsonOption,
    RecordedModelOption,
    RunArgument,
    RunsArgument,
    Store,
    StoreOption,
    TurnOption,
    find_recording,
    load_recorded_model,
    loads_model,
    locate_run,
    open_stored,
)
from tokentape.commands.output_paths import output_path
from tokentape.commands.report_files import HtmlOption, JUnitOption, report_files
from tokentape.commands.stored_results import store_verdict, try_to_store
from tokentape.commands.tool_files import (
    RECORDED,
    ToolsOption,
    read_rerun_tools,
    rerun_tools,
    run_tools_file,
)
from tokentape.recorder.clock import now_us
from tokentape.recorder.paths import expand_path
from tokentape.replay import load_run
from tokentape.replay.checking.turn_choice import choose_turns
from tokentape.replay.results.fingerprint_names import check_ignored
from tokentape.screen import err, out, stdout_on_stderr
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.generation.models.loading_settings import LoadingKeywords
    from tokentape.generation.tools.tools_file import ToolsFile
    from tokentape.replay import Floor, LoadedRun
    from tokentape.replay.options import CheckKeywords
    from tokentape.replay.results.report import FingerprintDifference

FloorOption = Annotated[
    Path | None,
    typer.Option(
        parser=expand_path,
        metavar="FILE",
        help="A noise floor written by `tokentape calibrate`; by default the built-in one for "
        "float32, or the one stored with the run.",
    ),
]


KeepOption = Annotated[
    bool,
    typer.Option("--keep/--no-keep", help="Store the verdict with the run (live stores only)."),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD",
        help="Compare even if this fingerprint differs: weights, adapters, config, model_code, "
        "tokenizer, template, device, dtype or random_stream; may be repeated. The report says so.",
    ),
]

WithoutInterventionsOption = Annotated[
    bool,
    typer.Option(
        "--without-interventions",
        help="Replay without the recorded interventions. The verdict is not stored.",
    ),
]


@loads_model
def verify(
    ctx: typer.Context,
    *,
    runs: RunsArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: RecordedModelOption = None,
    loading: "LoadingKeywords",
    turn: TurnOption = None,
    floor: FloorOption = None,
    ignore: IgnoreOption = None,
    tools: ToolsOption = RECORDED,
    without_interventions: WithoutInterventionsOption = False,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Exit 0 even if log-probabilities drifted.")
    ] = False,
    jobs: JobsOption = None,
    engine: EngineOption = None,
    ray_address: RayAddressOption = None,
    junit: JUnitOption = None,
    html: HtmlOption = None,
    keep: KeepOption = True,
    as_json: JsonOption = False,
) -> None:
    """Check every recorded token with one forward of the model.

    With several RUNs, folders of tapes, --jobs or --engine, all runs of each tape or store are
    verified, and short ones share a forward. An error of one does not end the others. A line for
    each run is printed, and the report of each that does not pass.

    Exit code 0: exact, verified or near_tie; 1: drifted, diverged or incomparable. Of several runs:
    the first of 2, 3, 1, 5 and 0 that any of them has alone.
    """
    check_ray_address(engine, ray_address)
    if is_bulk(runs, jobs, engine):
        check_one_run_options(turn, tools)
        settings = BulkOptions(
            runs=runs or [],
            store=store,
            model=model,
            loading=loading,
            floor=floor,
            ignore=ignore or [],
            interventions=not without_interventions,
            allow_drift=allow_drift,
            jobs=jobs,
            engine=engine,
            ray_address=ray_address,
        )
        files = ctx.with_resource(report_files(junit, html))
        keep = keep and not without_interventions
        raise typer.Exit(verify_runs(settings, files, keep=keep, as_json=as_json))
    request = _Request(
        runs[0] if runs else None,
        store,
        model,
        loading,
        turn,
        floor,
        ignore,
        tools,
        read_rerun_tools(tools),
        without_interventions,
    )
    _replay(ctx, "verify", request, _Results(junit, html, keep, as_json, allow_drift))


@loads_model
def retrace(
    ctx: typer.Context,
    *,
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: RecordedModelOption = None,
    loading: "LoadingKeywords",
    turn: TurnOption = None,
    floor: FloorOption = None,
    ignore: IgnoreOption = None,
    tools: ToolsOption = RECORDED,
    without_interventions: WithoutInterventionsOption = False,
    junit: JUnitOption = None,
    html: HtmlOption = None,
    keep: KeepOption = True,
    as_json: JsonOption = False,
) -> None:
    """Run every forward again along the recorded schedule, and compare every number bit for bit.

    Prefills, cache and single steps are those of the recording, so that 16 bits and GPUs are exact,
    too. It takes as long as generating did. With --turn, only these turns are compared.

    Exit code 0: exact, verified or near_tie; 1: drifted, diverged or incomparable.
    """
    request = _Request(
        run,
        store,
        model,
        loading,
        turn,
        floor,
        ignore,
        tools,
        read_rerun_tools(tools),
        without_interventions,
    )
    _replay(ctx, "retrace", request, _Results(junit, html, keep, as_json))


@loads_model
def regenerate(
    ctx: typer.Context,
    *,
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: RecordedModelOption = None,
    loading: "LoadingKeywords",
    turn: TurnOption = None,
    floor: FloorOption = None,
    ignore: IgnoreOption = None,
    tools: ToolsOption = RECORDED,
    without_interventions: WithoutInterventionsOption = False,
    junit: JUnitOption = None,
    html: HtmlOption = None,
    keep: KeepOption = True,
    as_json: JsonOption = False,
) -> None:
    """Generate every turn again with Hugging Face `generate`, and compare token by token.

    Exit code 0: exact, verified or near_tie; 1: drifted, diverged or incomparable.
    """
    request = _Request(
        run,
        store,
        model,
        loading,
        turn,
        floor,
        ignore,
        tools,
        read_rerun_tools(tools),
        without_interventions,
    )
    _replay(ctx, "regenerate", request, _Results(junit, html, keep, as_json))


@loads_model
def calibrate(
    ctx: typer.Context,
    *,
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: RecordedModelOption = None,
    loading: "LoadingKeywords",
    to: Annotated[
        Path | None,
        typer.Option(
            "--output", parser=output_path, metavar="FILE", help="Also write it to this file."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the noise floor of this machine and model on the tokens of a run."""
    from tokentape.store import DatabaseStore, StoredFloor

    run, store = locate_run(run, store)
    opened = open_stored(store)
    ctx.call_on_close(opened.close)
    loaded = load_run(find_recording(opened, run))
    lm = load_recorded_model(loaded.started, model, loading)
    with output.progress("calibrate", "{task.fields[variant]}") as bar:
        task = bar.add_task("", total=None, variant="")
        floor = tt.calibrate(
            loaded,
            lm,
            progress=lambda variant, number, count: bar.update(
                task, completed=number - 1, total=count, variant=variant
            ),
        )
    if to is not None:
        tt.write_floor(floor, to)
    if lm.identity.weights_sha256 != loaded.started.weights_sha256:
        err.line("tokentape: the floor is not stored: the model is not the recorded one")
    elif isinstance(opened, DatabaseStore):
        stored = StoredFloor(
            run_id=loaded.run_id,
            at_us=now_us(),
            version=floor.version,
            floor=asdict(floor),
        )
        try_to_store("floor", lambda: opened.add_floor(stored))
    if as_json:
        output.print_json(asdict(floor))
        return
    out.text(output.floor_text(floor, to))


@dataclass(frozen=True, slots=True)
class _Request:
    """Which run to replay, and how: the options that `verify`, `retrace` and `regenerate` share."""

    run: str | None
    store: str
    model: str | None
    loading: "LoadingKeywords"
    turns: list[int] | None
    floor: Path | None
    ignore: list[str] | None
    tools: str
    tools_file: "ToolsFile | None"
    without_interventions: bool

    def keywords(
        self,
        opened: Store,
        loaded: "LoadedRun",
        lm: "tt.LoadedModel",
        given_floor: "Floor | None",
    ) -> "CheckKeywords":
        """Return the keywords of the replay; without a given floor, with that of the store."""
        return {
            "turns": self.turns or None,
            "floor": given_floor or _stored_floor(opened, loaded, lm),
            "ignore": self.ignore or (),
            "tools": rerun_tools(self.tools, self.tools_file, loaded.started, lm),
            "interventions": not self.without_interventions,
            "on_fingerprint_difference": _report_differences,
        }


@dataclass(frozen=True, slots=True)
class _Results:
    """Where the report goes, and whether drifted runs pass."""

    junit: Path | None
    html: Path | None
    keep: bool
    as_json: bool
    allow_drift: bool = False


def _replay(ctx: typer.Context, name: str, request: _Request, results: _Results) -> NoReturn:
    """Run a replay, store and publish its report, and exit."""
    check_ignored(request.ignore or ())
    run, store = locate_run(request.run, request.store)
    opened = open_stored(store)
    ctx.call_on_close(opened.close)
    # The states of a turn's cache come from the turns before it.
    turns = None if name == "retrace" else request.turns
    loaded = load_run(find_recording(opened, run), turns or None)
    given_floor = None if request.floor is None else tt.read_floor(request.floor)
    files = ctx.with_resource(report_files(results.junit, results.html))
    choose_turns(loaded, request.turns)  # which finds mistakes before the model is loaded
    run_tools_file(request.tools_file)
    lm = load_recorded_model(loaded.started, request.model, request.loading)
    keywords = request.keywords(opened, loaded, lm, given_floor)
    with output.progress(name) as bar, stdout_on_stderr():
        task = bar.add_task("", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if name == "verify":
            report = tt.verify(loaded, lm, progress=progress, **keywords)
        elif name == "retrace":
            report = tt.retrace(loaded, lm, progress=progress, **keywords)
        else:
            rounds = len(request.turns or loaded.turns)
            bar.update(task, total=rounds)
            report = tt.regenerate(
                loaded, lm, progress=lambda verdict, duration_us: bar.advance(task), **keywords
            )
    if results.keep and not request.without_interventions:
        store_verdict(report, opened)
    files.publish(report, as_json=results.as_json, allow_drift=results.allow_drift)
    accepted = report.verdict.is_accepted(allow_drift=results.allow_drift)
    raise typer.Exit(0 if accepted else 1)


def _stored_floor(opened: Store, run: "LoadedRun", lm: "tt.LoadedModel") -> "Floor | None":
    from tokentape.replay.checking.noise_floor import stored_floor

    return stored_floor(opened, run, lm)


def _report_differences(differences: "Sequence[FingerprintDifference]") -> None:
    """Report differing fingerprints before the model runs: they may explain everything."""
    for each in differences:
        if each.forbids:
            ignored = " (ignored)" if each.ignored else ""
            err.line(
                f"tokentape: {each.field} differs{ignored}: recorded {each.recorded}, "
                f"now {each.replayed}"
            )
