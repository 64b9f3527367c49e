"""The command line: data on standard output, progress and errors on standard error.

Exit codes: 0 the same or done, 1 a divergence, 2 bad input, 3 recorded by a newer version, 5
nothing to replay.
"""

import os
import sys
import warnings
from typing import NoReturn

import typer

import tokentape as tt
from tokentape.commands import (
    copies,
    database,
    demo,
    diff,
    investigations,
    lineage,
    replays,
    runs,
    tail,
)

app = typer.Typer(
    name="tokentape",
    help="A flight recorder for local language-model experiments.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
db = typer.Typer(help="Show or upgrade the schema of a store.", no_args_is_help=True)

app.command()(demo.demo)
app.command()(investigations.run)
app.command()(lineage.resume)
app.command()(lineage.fork)
app.command()(investigations.chat)
app.command("list")(runs.list_runs)
app.command()(runs.show)
app.command()(tail.tail)
app.command()(runs.check)
app.command()(replays.rebuild)
app.command()(replays.verify)
app.command()(replays.regenerate)
app.command()(replays.calibrate)
app.command()(diff.diff)
app.command()(copies.pack)
app.command()(copies.export)
app.command("import")(copies.import_)
app.command()(runs.erase)
app.add_typer(db, name="db")
db.command()(database.current)
db.command("history")(database.list_history)
db.command()(database.upgrade)


@app.command("serve-replays", hidden=True)
def serve_replays() -> None:
    """Answer the requests of the pytest plugin."""
    # It imports pandas, which no command that only lists or shows should wait for.
    from tokentape.commands import serving

    serving.serve_replays()


def main() -> NoReturn:
    """Run a command; report an error as one line on standard error and an exit code."""
    if not sys.warnoptions:
        # Warnings of libraries address developers, not users of the command line.
        warnings.simplefilter("ignore")
    try:
        app()
    except tt.TokentapeError as error:
        _fail(error, error.exit_code)
    except Exception as error:  # never exit code 1: a crash is not a divergence
        _fail(error, 2, f"unexpected {type(error).__name__} (TOKENTAPE_TRACEBACK=1 shows where): ")
    sys.exit(0)


def _fail(error: Exception, code: int, prefix: str = "") -> NoReturn:
    if os.environ.get("TOKENTAPE_TRACEBACK"):
        raise error
    sys.stderr.write(f"tokentape: {prefix}{' '.join(str(error).split())}\n")
    sys.exit(code)
