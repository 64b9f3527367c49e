"""The command line: data on standard output, progress and errors on standard error.

Exit codes: 0 the same or done, 1 a divergence and nothing else, 2 bad input, 3 recorded by a newer
version, 5 nothing to replay, 128 + n ended by signal n (141: the reader of the output has left).
"""

import io
import os
import sys
import warnings
from typing import Annotated, Any, NoReturn, TextIO

import typer

import tokentape as tt
from tokentape.commands import (
    copies,
    database,
    demo,
    diff,
    erase,
    exporting,
    investigations,
    labels,
    lineage,
    memory,
    rebuilding,
    replays,
    running,
    runs,
    serve,
    signing,
    tail,
    view,
)
from tokentape.recorder.errors import TokentapeWarning
from tokentape.recorder.escapes import single_line
from tokentape.screen import err, out
from tokentape.store.errors import AmbiguousRunError
from tokentape.streams import ReaderLeftError, forget_failure, guard_streams, owns_streams

# Its module differs between versions of typer.
_ClickException: Any = next(
    each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException"
)

app = typer.Typer(
    name="tokentape",
    help="A flight recorder for local language-model experiments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
db = typer.Typer(help="Show or upgrade the schema of a store.", no_args_is_help=True)

app.command()(demo.demo)
app.command()(running.run)
app.command()(memory.plan)
app.command()(lineage.resume)
app.command()(lineage.fork)
app.command()(lineage.close)
app.command()(investigations.chat)
app.command()(serve.serve)
app.command("list")(runs.list_runs)
app.command()(runs.show)
app.command()(labels.tag)
app.command()(labels.note)
app.command()(tail.tail)
app.command()(view.view)
app.command()(runs.check)
app.command()(signing.sign)
app.command()(rebuilding.rebuild)
app.command()(replays.verify)
app.command()(replays.retrace)
app.command()(replays.regenerate)
app.command()(replays.calibrate)
app.command()(diff.diff)
app.command()(copies.pack)
app.command()(exporting.export)
app.command("import")(copies.import_)
app.command()(erase.erase)
app.add_typer(db, name="db")
db.command()(database.current)
db.command("history")(database.list_history)
db.command()(database.upgrade)


def _print_version(asked: bool) -> None:
    if asked:
        out.line(f"tokentape {tt.__version__}")
        raise typer.Exit


@app.callback()
def tokentape(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """A flight recorder for local language-model experiments."""


@app.command("serve-replays", hidden=True)
def serve_replays() -> None:
    """Answer the requests of the pytest plugin."""
    # It imports pandas, which no command that only lists or shows should wait for.
    from tokentape.commands import replay_requests

    replay_requests.serve_replays()


def main() -> NoReturn:
    """Run a command; report an error as one line on standard error and an exit code."""
    if not sys.warnoptions:
        # Warnings of libraries address developers, not users of the command line.
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=TokentapeWarning)
        warnings.showwarning = _show_warning
    guard_streams()
    code = _run()
    forget_failure()
    if owns_streams() and not _tools_have_ended():
        # Python would end the thread of a tool, which aborts the process within C++ code.
        out.flush()
        os._exit(code)
    sys.exit(code)


def _tools_have_ended() -> bool:
    """Return whether every tool has ended, also those that a timeout or a signal left running."""
    timeout = sys.modules.get("tokentape.generation.tools.timeout")
    return timeout is None or bool(timeout.end_abandoned())


def _run() -> int:
    """Run a command and return its exit code, which is 1 only if the command says so."""
    try:
        # Otherwise typer would exit with code 1 at a closed pipe and at the end of the input.
        code = app(standalone_mode=False)
        out.flush()
        return code if isinstance(code, int) else 0
    except ReaderLeftError as error:
        return error.exit_code
    except tt.TokentapeError as error:
        return _report(error, error.exit_code)
    except typer.Abort as error:
        err.line("tokentape: aborted")
        return investigations.INTERRUPTED if isinstance(error.__cause__, KeyboardInterrupt) else 2
    except _ClickException as error:
        _show_usage(error)
        return int(error.exit_code)
    except Exception as error:
        prefix = f"unexpected {type(error).__name__} (TOKENTAPE_TRACEBACK=1 shows where): "
        return _report(error, 2, prefix)


def _show_usage(error: Any) -> None:
    """Write the usage of a command and the error on standard error."""
    # typer's words for any value that does not convert.
    error.message = single_line(error.message.removeprefix("Value error, "))
    usage = io.StringIO()
    error.show(usage)
    err.text(usage.getvalue())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning as one line on standard error, without the place in the source."""
    err.toned([(f"tokentape: warning: {message}", "note")])


def _report(error: Exception, code: int, prefix: str = "") -> int:
    if os.environ.get("TOKENTAPE_TRACEBACK"):
        raise error
    message, others = str(error), getattr(error, "__notes__", ())
    if isinstance(error, AmbiguousRunError):
        message, others = error.message, error.candidates
    err.toned([(f"tokentape: {prefix}{' '.join(message.split())}", "bad")])
    err.lines(f"  {other}" for other in others)
    return code
