"""Commands that replay a run: from its events alone, or with the model."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tokentape as tt
from recorder.events import RunStarted
from store import DEFAULT_URL
from tokentape import output
from tokentape.commands.options import (
    JsonOption,
    RunArgument,
    StoreOption,
    TurnOption,
    find_recording,
    open_stored,
    turn_json,
)
from tokentape.commands.reports import HtmlOption, JUnitOption, report_files

if TYPE_CHECKING:
    from replay import Floor
    from replay.verdict import FieldDifference

ModelOption = Annotated[
    str | None,
    typer.Option(
        help="smollm2-demo, a folder, a GGUF file or a hub id; the recorded one if left out."
    ),
]
FloorOption = Annotated[
    Path | None,
    typer.Option(help="The noise floor in a file of `tokentape calibrate`; else the built-in one."),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD",
        help="Compare although this fingerprint differs: weights, tokenizer, template, device, "
        "dtype or random_stream; may be repeated. The report says so.",
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
    from replay.report import render_turn

    sys.stdout.writelines(f"{render_turn(each)}\n" for each in rebuilt.turns)


def verify(
    ctx: typer.Context,
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: ModelOption = None,
    turn: TurnOption = None,
    floor: FloorOption = None,
    ignore: IgnoreOption = None,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Exit 0 although log-probabilities drifted.")
    ] = False,
    junit: JUnitOption = None,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every recorded token with one forward of the model."""
    recording = find_recording(open_stored(store), run)
    known_floor = _read_floor(floor)
    files = ctx.with_resource(report_files(junit, html))
    lm = _load(model, recording.started())
    with output.progress("verify") as bar:
        task = bar.add_task("", total=None)
        report = tt.verify(
            recording,
            lm,
            turns=turn,
            floor=known_floor,
            ignore=ignore or (),
            differing=_say_differing,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    files.publish(report, as_json=as_json, allow_drift=allow_drift)
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
    junit: JUnitOption = None,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say it all again with Hugging Face `generate` and compare token by token."""
    recording = find_recording(open_stored(store), run)
    known_floor = _read_floor(floor)
    files = ctx.with_resource(report_files(junit, html))
    lm = _load(model, recording.started())
    with output.progress("regenerate") as bar:
        count = len(turn) if turn else len(recording.turns())
        task = bar.add_task("", total=count)
        report = tt.regenerate(
            recording,
            lm,
            turns=turn,
            floor=known_floor,
            ignore=ignore or (),
            differing=_say_differing,
            progress=lambda verdict, ms: bar.advance(task),
        )
    files.publish(report, as_json=as_json)
    raise typer.Exit(0 if report.passes else 1)


def calibrate(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: ModelOption = None,
    to: Annotated[
        Path | None, typer.Option("--output", help="Write the floor to this file, for CI to pin.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the noise floor of this machine and model over the tokens of a run."""
    recording = find_recording(open_stored(store), run)
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
    if as_json:
        output.print_json(asdict(floor))
        return
    sys.stdout.write(output.floor_text(floor, to))


def _read_floor(path: Path | None) -> "Floor | None":
    return None if path is None else tt.read_floor(path)


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
        return tt.load_model(model or started.model)
