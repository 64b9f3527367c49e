"""The command line. Data goes to standard output, progress and errors to standard error.

Exit codes: 0 same or fine, 1 divergence, 2 bad input, 3 written by a newer version, 5 nothing to
replay.
"""

import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from sqlalchemy.engine import URL

import tokentape as tt
from recorder.events import RunStarted
from replay.report import render, render_turn
from replay.verdict import Report, Verdict
from store import (
    DEFAULT_URL,
    DatabaseStore,
    current_schema,
    database_url,
    upgrade_store,
)
from store.schema import head, history
from tokentape import copies, output
from tokentape.demo import DEMO_SEALED, DEMO_STORE, run_demo
from tokentape.options import JsonOption, RunArgument, StoreOption, find_recording, open_stored

app = typer.Typer(
    name="tokentape",
    help="A flight recorder for local language-model experiments.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

database = typer.Typer(help="Look at the schema of a store, and upgrade it.", no_args_is_help=True)
app.add_typer(database, name="db")
app.command()(copies.pack)
app.command()(copies.export)
app.command("import")(copies.import_)

TurnOption = Annotated[
    list[int] | None, typer.Option("--turn", help="Only this turn; may be repeated.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        help="smollm2-demo, a folder, a GGUF file or a hub id; the recorded one if left out."
    ),
]


@app.command()
def demo(
    store: Annotated[str, typer.Option(help="Where to record.")] = DEMO_STORE,
    sealed: Annotated[Path, typer.Option(help="Folder to seal the run into.")] = DEMO_SEALED,
    model: Annotated[str, typer.Option(help="The model to ask.")] = "smollm2-demo",
    script: Annotated[
        Path | None, typer.Option(help="A TOML file of turns instead of the bundled one.")
    ] = None,
) -> None:
    """Ask a model about its own weights for 20 turns, record it, and replay the recording."""
    raise typer.Exit(run_demo(store, sealed, model, script))


@app.command("list")
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
        output.print_json(json.loads(frame.to_json(orient="records", date_format="iso")))
        return
    summaries = opened.summaries()
    shown = summaries[-last:] if last else summaries
    output.console().print(output.runs_table(shown))
    if len(shown) < len(summaries):
        sys.stderr.write(f"and {len(summaries) - len(shown):,} older runs: --last 0 shows all\n")


@app.command()
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
            | {"turns": [_turn_json(each) for each in turns]}
        )
        return
    console = output.console()
    console.print(f"run {recording.run_id}", markup=False)
    for name in ("name", "model", "seed", "dtype", "device", "attention_kernel"):
        console.print(f"  {name:<17}{getattr(started, name)}", markup=False)
    console.print(output.turns_table(turns))
    for each in turns if turn else ():
        console.print(render_turn(each), markup=False)


@app.command()
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
                "turns": [_turn_json(each) for each in rebuilt.turns],
            }
        )
        return
    for each in rebuilt.turns:
        sys.stdout.write(render_turn(each) + "\n")


@app.command()
def verify(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: ModelOption = None,
    turn: TurnOption = None,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Exit 0 although log-probabilities drifted.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every recorded token with one forward of the model."""
    recording = find_recording(open_stored(store), run)
    lm = _load(model, recording.started())
    with output.progress("verify") as bar:
        task = bar.add_task("", total=None)
        report = tt.verify(
            recording,
            lm,
            turns=turn,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _report(report, as_json)
    drift_allowed = allow_drift and report.verdict is Verdict.DRIFTED
    raise typer.Exit(0 if report.passes or drift_allowed else 1)


@app.command()
def regenerate(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: ModelOption = None,
    turn: TurnOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say it all again with Hugging Face `generate` and compare token by token."""
    recording = find_recording(open_stored(store), run)
    lm = _load(model, recording.started())
    with output.progress("regenerate") as bar:
        count = len(turn) if turn else len(recording.turns())
        task = bar.add_task("", total=count)
        report = tt.regenerate(
            recording, lm, turns=turn, progress=lambda verdict, ms: bar.advance(task)
        )
    _report(report, as_json)
    raise typer.Exit(0 if report.passes else 1)


@app.command()
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
        output.print_json(asdict(found) | {"holds": found.holds})
    else:
        sys.stdout.write(output.integrity_text(found))
    raise typer.Exit(0 if found.holds else 1)


@app.command()
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


@database.command("current")
def db_current(store: StoreOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Say which schema a store has, and whether this tokentape can use it as it is."""
    revision, newest = current_schema(_database_url(store)), head()
    if as_json:
        output.print_json({"current": revision, "head": newest})
    else:
        note = "" if revision == newest else f", to be upgraded to {newest}"
        sys.stdout.write(f"{revision}{note}\n")


@database.command("history")
def db_history(store: StoreOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """List every schema there was, the oldest first, and which one a store has."""
    revisions = history(current_schema(_database_url(store)))
    if as_json:
        output.print_json([asdict(each) for each in revisions])
    else:
        for each in revisions:
            mark = "*" if each.is_current else " "
            sys.stdout.write(f"{mark} {each.revision}  {each.summary}\n")


@database.command("upgrade")
def db_upgrade(
    store: StoreOption = DEFAULT_URL,
    backup: Annotated[bool, typer.Option(help="Copy a SQLite file first.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Bring a store to the newest schema, all of it or nothing."""
    done = upgrade_store(_database_url(store), backup=backup)
    if as_json:
        output.print_json(asdict(done) | {"backup": done.backup and str(done.backup)})
    elif done.before == done.after:
        sys.stdout.write(f"{done.after} is the newest already\n")
    else:
        kept = f"; backup: {done.backup}" if done.backup else ""
        sys.stdout.write(f"{done.before} -> {done.after}{kept}\n")


def _live(store: str) -> DatabaseStore:
    opened = open_stored(store)
    if not isinstance(opened, DatabaseStore):
        raise tt.StoreError(f"{store} is sealed: it can only be read")
    return opened


def _database_url(store: str) -> URL:
    url = database_url(store)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise tt.StoreError(f"there is no store at {url.database}")
    return url


def _load(model: str | None, started: RunStarted) -> tt.LoadedModel:
    if not (model or started.model):
        raise tt.ModelError("the recording does not name its model: say which with --model")
    with output.working("loading the model"):
        return tt.load_model(model or started.model)


def _report(report: Report, as_json: bool) -> None:
    if as_json:
        output.print_json(report.to_dict())
    else:
        sys.stdout.write(render(report) + "\n")


def _turn_json(turn: Any) -> dict[str, Any]:
    return asdict(turn) | {"reply_ids": list(turn.reply_ids), "reply_text": turn.reply_text}


def main() -> NoReturn:
    """Run a command; an error is one line on standard error and an exit code."""
    if not sys.warnoptions:
        # Warnings of libraries are for those who write code, not for those who type commands.
        warnings.simplefilter("ignore")
    try:
        app()
    except tt.NewerRecordingError as error:
        _fail(error, 3)
    except tt.NothingToReplayError as error:
        _fail(error, 5)
    except tt.TokentapeError as error:
        _fail(error, 2)
    except Exception as error:  # never 1: a crash is not a divergence
        _fail(error, 2, f"unexpected {type(error).__name__} (TOKENTAPE_TRACEBACK=1 shows where): ")
    sys.exit(0)


def _fail(error: Exception, code: int, prefix: str = "") -> NoReturn:
    if os.environ.get("TOKENTAPE_TRACEBACK"):
        raise error
    sys.stderr.write(f"tokentape: {prefix}{' '.join(str(error).split())}\n")
    sys.exit(code)
