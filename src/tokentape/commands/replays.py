"""Commands that replay a run: from its events alone, or with the model."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.options import (
    JsonOption,
    RunArgument,
    Store,
    StoreOption,
    TurnOption,
    find_recording,
    kept_floor,
    load_as_recorded,
    open_stored,
    turn_json,
)
from tokentape.commands.reports import HtmlOption, JUnitOption, report_files
from tokentape.recorder.clock import now_us
from tokentape.recorder.events import RunStarted
from tokentape.store import DEFAULT_URL, DatabaseStore, StoredFloor, StoredVerdict

if TYPE_CHECKING:
    from tokentape.replay import Report
    from tokentape.replay.verdict import FieldDifference

ModelOption = Annotated[
    str | None,
    typer.Option(
        help="smollm2-demo, a folder, a GGUF file or a hub id; the recorded one if left out."
    ),
]
FloorOption = Annotated[
    Path | None,
    typer.Option(
        help="The noise floor in a file of `tokentape calibrate`; else the built-in one of "
        "float32, or the one that is kept with the run."
    ),
]


class Tools(StrEnum):
    RECORDED = "recorded"
    RERUN = "rerun"


ToolsOption = Annotated[
    Tools,
    typer.Option(
        help="Answer calls of tools from the recording, or run them again and compare the results."
    ),
]
KeepOption = Annotated[
    bool,
    typer.Option(
        "--keep/--no-keep", help="Keep the verdict beside the recording, in a live store."
    ),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD",
        help="Compare although this fingerprint differs: weights, tokenizer, template, device, "
        "dtype or random_stream; may be repeated. The report says so.",
    ),
]

WithoutInterventionsOption = Annotated[
    bool,
    typer.Option(
        "--without-interventions",
        help="Replay as if nothing had been done inside the model. The verdict is not kept.",
    ),
]


def rebuild(
    run: RunArgument = None, store: StoreOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Rebuild the conversation from events alone; with --json, every id and text of each turn."""
    recording = find_recording(open_stored(store), run)
    rebuilt = tt.rebuild(recording)
    if as_json:
        output.print_json(
            {
                "run_id": rebuilt.run_id,
                "messages": [asdict(message) for message in rebuilt.messages],
                "turns": [turn_json(each) for each in rebuilt.turns],
            }
        )
        return
    from tokentape.replay.reports.terminal import render_turn

    sys.stdout.writelines(f"{render_turn(each)}\n" for each in rebuilt.turns)


def verify(
    ctx: typer.Context,
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: ModelOption = None,
    turn: TurnOption = None,
    floor: FloorOption = None,
    ignore: IgnoreOption = None,
    tools: ToolsOption = Tools.RECORDED,
    without_interventions: WithoutInterventionsOption = False,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Exit 0 although log-probabilities drifted.")
    ] = False,
    junit: JUnitOption = None,
    html: HtmlOption = None,
    keep: KeepOption = True,
    as_json: JsonOption = False,
) -> None:
    """Check every recorded token with one forward of the model."""
    opened = open_stored(store)
    ctx.call_on_close(opened.close)
    recording = find_recording(opened, run)
    given_floor = None if floor is None else tt.read_floor(floor)
    files = ctx.with_resource(report_files(junit, html))
    lm = _load(model, recording.started())
    with output.progress("verify") as bar:
        task = bar.add_task("", total=None)
        report = tt.verify(
            recording,
            lm,
            turns=turn,
            floor=given_floor or kept_floor(recording, opened, lm),
            ignore=ignore or (),
            tools=tt.default_tools(lm) if tools is Tools.RERUN else None,
            interventions=not without_interventions,
            differing=_say_differing,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    files.publish(report, as_json=as_json, allow_drift=allow_drift)
    _keep_verdict(report, opened, keep and not without_interventions)
    drift_allowed = allow_drift and report.verdict is tt.Verdict.DRIFTED
    raise typer.Exit(0 if report.passes or drift_allowed else 1)


def regenerate(
    ctx: typer.Context,
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: ModelOption = None,
    turn: TurnOption = None,
    floor: FloorOption = None,
    ignore: IgnoreOption = None,
    tools: ToolsOption = Tools.RECORDED,
    without_interventions: WithoutInterventionsOption = False,
    junit: JUnitOption = None,
    html: HtmlOption = None,
    keep: KeepOption = True,
    as_json: JsonOption = False,
) -> None:
    """Say it all again with Hugging Face `generate` and compare token by token."""
    opened = open_stored(store)
    ctx.call_on_close(opened.close)
    recording = find_recording(opened, run)
    given_floor = None if floor is None else tt.read_floor(floor)
    files = ctx.with_resource(report_files(junit, html))
    lm = _load(model, recording.started())
    with output.progress("regenerate") as bar:
        count = len(turn) if turn else len(recording.turns())
        task = bar.add_task("", total=count)
        report = tt.regenerate(
            recording,
            lm,
            turns=turn,
            floor=given_floor or kept_floor(recording, opened, lm),
            ignore=ignore or (),
            tools=tt.default_tools(lm) if tools is Tools.RERUN else None,
            interventions=not without_interventions,
            differing=_say_differing,
            progress=lambda verdict, duration_us: bar.advance(task),
        )
    files.publish(report, as_json=as_json)
    _keep_verdict(report, opened, keep and not without_interventions)
    raise typer.Exit(0 if report.passes else 1)


def calibrate(
    ctx: typer.Context,
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: ModelOption = None,
    to: Annotated[
        Path | None, typer.Option("--output", help="Write the floor to this file, for CI to pin.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the noise floor of this machine and model over the tokens of a run."""
    opened = open_stored(store)
    ctx.call_on_close(opened.close)
    recording = find_recording(opened, run)
    lm = _load(model, recording.started())
    with output.progress("calibrate", "{task.fields[way]}") as bar:
        task = bar.add_task("", total=None, way="")
        floor = tt.calibrate(
            recording,
            lm,
            measured=lambda way, number, count: bar.update(
                task, completed=number - 1, total=count, way=way
            ),
        )
    if to is not None:
        tt.write_floor(floor, to)
    weights = lm.identity.weights_sha256_for(recording.started())
    if weights != recording.started().weights_sha256:
        sys.stderr.write("tokentape: the floor is not kept: it is that of another model\n")
    elif isinstance(opened, DatabaseStore):
        kept = StoredFloor(
            run_id=recording.run_id,
            at_us=now_us(),
            version=floor.version,
            floor=asdict(floor),
        )
        _try_to_keep("floor", lambda: opened.keep_floor(kept))
    if as_json:
        output.print_json(asdict(floor))
        return
    sys.stdout.write(output.floor_text(floor, to))


def _keep_verdict(report: "Report", opened: Store, keep: bool) -> None:
    if keep and isinstance(opened, DatabaseStore):
        kept = StoredVerdict(
            run_id=report.run_id,
            at_us=now_us(),
            replay=report.replay,
            verdict=report.verdict,
            report=report.to_dict(),
        )
        _try_to_keep("verdict", lambda: opened.keep_verdict(kept))


def _try_to_keep(what: str, keep: Callable[[], None]) -> None:
    """A store that may only be read has been replayed all the same."""
    try:
        keep()
    except tt.StoreError as error:
        sys.stderr.write(f"tokentape: the {what} is not kept: {error}\n")


def _say_differing(differences: "Sequence[FieldDifference]") -> None:
    """Before the model runs: what is found may be no more than this."""
    for each in differences:
        if each.forbids:
            ignored = " (ignored)" if each.ignored else ""
            sys.stderr.write(
                f"tokentape: {each.field} differs{ignored}: recorded {each.recorded}, "
                f"now {each.replayed}\n"
            )


def _load(model: str | None, started: RunStarted) -> "tt.LoadedModel":
    if not (model or started.model):
        raise tt.ModelError("the recording does not name its model: say which with --model")
    with output.working("loading the model"):
        return load_as_recorded(model or started.model, started)
