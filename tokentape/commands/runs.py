"""Commands that look at recorded runs, vouch for them and forget them."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

import tokentape as tt
from store import DEFAULT_URL, DatabaseStore
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


def list_runs(
    store: StoreOption = DEFAULT_URL,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, help="So many of the newest; 0 for all.")
    ] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the newest runs of a store, the newest last; with --json, all of them."""
    opened = open_stored(store)
    if as_json:
        frame = tt.runs_df(opened)
        text = frame.to_json(orient="records", date_format="iso", date_unit="us")
        output.print_json(json.loads(text))
        return
    summaries = opened.summaries()
    shown = summaries[-last:] if last else summaries
    output.console().print(output.runs_table(shown))
    if len(shown) < len(summaries):
        sys.stderr.write(f"and {len(summaries) - len(shown):,} older runs: --last 0 shows all\n")


def show(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    turn: TurnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run is and how its turns went; with --turn, what was said in one."""
    recording = find_recording(open_stored(store), run)
    started = recording.started()
    turns = [each for each in recording.turns() if not turn or each.number in turn]
    if as_json:
        output.print_json(
            {"run_id": recording.run_id, "started": asdict(started)}
            | {"turns": [turn_json(each) for each in turns]}
        )
        return
    console = output.console()
    console.print(f"run {recording.run_id}", markup=False)
    for name in ("name", "model", "seed", "dtype", "device", "attention_kernel"):
        console.print(f"  {name:<17}{getattr(started, name)}", markup=False)
    console.print(output.turns_table(turns))
    if turn:
        from replay.report import render_turn

        for each in turns:
            console.print(render_turn(each), markup=False)


def check(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    seal: Annotated[
        str | None, typer.Option(help="The last seal as it was noted elsewhere, to compare.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show that a run is what was recorded: derive its seals anew; exit 1 where it is not."""
    opened = open_stored(store)
    found = tt.check(opened, find_recording(opened, run).run_id, seal=seal)
    if as_json:
        states = {"holds": found.holds, "is_vouched_for": found.is_vouched_for}
        output.print_json(asdict(found) | states)
    else:
        sys.stdout.write(output.integrity_text(found))
    raise typer.Exit(0 if found.holds and found.is_vouched_for else 1)


def erase(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id or its beginning.")],
    store: StoreOption = DEFAULT_URL,
    reason: Annotated[str, typer.Option(help="Kept with the tombstone.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Forget a run for good: its events, and the tool results that no other run has."""
    opened = _live(store)
    run_id = opened.recording(run).run_id
    if not yes and not typer.confirm(f"erase run {run_id} from {opened.where}?", err=True):
        raise typer.Exit(2)
    erased = opened.erase(run_id, reason=reason)
    if as_json:
        output.print_json(asdict(erased) | {"backups": [str(each) for each in erased.backups]})
    else:
        sys.stdout.write(output.erasure_text(erased))


def _live(store: str) -> DatabaseStore:
    opened = open_stored(store)
    if not isinstance(opened, DatabaseStore):
        raise tt.StoreError(f"{store} is sealed: it can only be read")
    return opened
