"""The command `diff`: compare two runs without a model."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.completion import complete_run
from tokentape.commands.options import (
    RUN_HELP,
    JsonOption,
    Store,
    StoreOption,
    find_recording,
    locate_run,
    open_stored,
)
from tokentape.commands.output_paths import output_path
from tokentape.screen import err, out
from tokentape.store.default_store import DEFAULT_URL

DiffPageOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        parser=output_path,
        metavar="FILE",
        help="Also write both runs side by side, aligned by token, as one HTML page.",
    ),
]


def diff(
    run_a: Annotated[
        str | None,
        typer.Argument(
            metavar="A",
            help=f"{RUN_HELP}. Without A and B the two newest runs are compared.",
            autocompletion=complete_run,
        ),
    ] = None,
    run_b: Annotated[
        str | None,
        typer.Argument(metavar="B", help="The second run, like A.", autocompletion=complete_run),
    ] = None,
    store: StoreOption = DEFAULT_URL,
    other_store: Annotated[
        str | None, typer.Option(help="The store of B, if it is not the store of A.")
    ] = None,
    turn: Annotated[
        list[int] | None, typer.Option("--turn", help="Show this turn in full; may be repeated.")
    ] = None,
    html: DiffPageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs: print where they diverge first, then every difference.

    Exit code 0: the same; 1: they differ; 5: there are no two runs to compare.
    """
    from tokentape.replay.reports.diff_report import headline, render_lines

    with ExitStack() as opened, output.working("comparing"):
        recordings = _find_both(run_a, run_b, store, other_store or store, opened)
        if html is not None:
            _write_page(html, *recordings)
        found = tt.diff(*recordings)
    missing = sorted(set(turn or ()) - {each.turn for each in found.turns})
    if missing:
        raise tt.NothingToReplayError(f"neither run has a turn {missing[0]}")
    if as_json:
        output.print_json({"headline": headline(found)} | found.to_dict())
    else:
        out.toned(render_lines(found, turn or ()))
    if html is not None:
        err.line(f"tokentape: {html} has both runs side by side: open it in a browser")
    raise typer.Exit(0 if found.same else 1)


def _write_page(path: Path, a: tt.Recording, b: tt.Recording) -> None:
    """Write the runs side by side as a page. Raise ReplayError if the path has another file."""
    from tokentape.replay.view.diff_document import diff_document
    from tokentape.replay.view.run_page import ViewPage, check_page_path

    check_page_path(path)
    ViewPage(diff_document(a, b)).save(path)


def _find_both(
    run_a: str | None, run_b: str | None, store: str, other_store: str, opened: ExitStack
) -> tuple[tt.Recording, tt.Recording]:
    if run_a is not None and run_b is not None:
        return _find(run_a, store, opened), _find(run_b, other_store, opened)
    if run_a is not None:
        raise tt.StoreError("name two runs to compare, or none for the two newest")
    if store != other_store:
        return _newest(store, opened, 1)[0], _newest(other_store, opened, 1)[0]
    older, newer = _newest(store, opened, 2)
    return older, newer


def _find(named: str, store: str, opened: ExitStack) -> tt.Recording:
    run, store = locate_run(named, store)
    return find_recording(_open(store, opened), run, only=True)


def _newest(store: str, opened: ExitStack, count: int) -> list[tt.Recording]:
    source = _open(store, opened)
    summaries = source.summaries()
    if len(summaries) < count:
        raise tt.NothingToReplayError(
            f"there is nothing to compare: {source.where} holds {len(summaries)} runs"
        )
    return [source.recording(each.run_id) for each in summaries[-count:]]


def _open(store: str, opened: ExitStack) -> Store:
    source = open_stored(store)
    opened.callback(source.close)
    return source
