"""The command `view`: a run as one HTML page, or a store's runs on a server of this machine."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.options import (
    JsonOption,
    RunArgument,
    Store,
    StoreOption,
    find_recording,
    loads_model,
    locate_run,
    open_stored,
)
from tokentape.commands.output_paths import output_path
from tokentape.commands.tool_files import ToolsFileOption
from tokentape.recorder.paths import expand_path
from tokentape.screen import out
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.generation.models.loading_settings import LoadingKeywords

_ID_CHARS = 13
"""The time of a UUIDv7, in milliseconds."""
_NAME_CHARS = 40


PageOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        parser=output_path,
        metavar="FILE",
        help="The page to write; by default it is named after the run.",
    ),
]
ReportOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[LABEL=]FILE",
        help="Also show a report that verify, retrace or regenerate printed with --json; may be "
        "repeated.",
    ),
]
ServeOption = Annotated[
    bool, typer.Option("--serve", help="Serve all runs of the store on 127.0.0.1 until Ctrl-C.")
]
PortOption = Annotated[
    int, typer.Option(min=0, max=65535, help="The port to serve on; 0 is a free one.")
]
NoOpenOption = Annotated[
    bool, typer.Option("--no-open", help="Do not open the served page in a browser.")
]
ServedModelOption = Annotated[
    str | None,
    typer.Option(help="With --serve: load this model, so that pages can go on from any token."),
]


@loads_model
def view(
    ctx: typer.Context,
    *,
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    to: PageOption = None,
    report: ReportOption = None,
    serve: ServeOption = False,
    port: PortOption = 0,
    no_open: NoOpenOption = False,
    model: ServedModelOption = None,
    loading: "LoadingKeywords",
    tools: ToolsFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run as a web page: one file that needs no network, or a page that is served.

    It shows the conversation, each token and its candidates, the cache, and the replays. With
    --serve, a page grows while its run is recorded, and the list of runs can be searched.
    """
    reports = [_read_report(each) for each in report or ()]
    named, place = locate_run(run, store)
    if not serve:
        _check_not_served(port, no_open, model, loading, tools)
        opened = open_stored(place)
        ctx.call_on_close(opened.close)
        _show_page(opened, named, to, reports, as_json)
        return
    if to is not None:
        raise typer.BadParameter("--output writes a file: leave it out with --serve")
    from tokentape.commands.view_serving import ServeRequest, serve_runs

    request = ServeRequest(
        run=named,
        store=place,
        port=port,
        opens=not no_open,
        model=model,
        loading=loading,
        tools=tools,
        reports=reports,
        as_json=as_json,
    )
    raise typer.Exit(serve_runs(request))


def _show_page(
    opened: Store,
    named: str | None,
    to: Path | None,
    reports: Sequence[tuple[str, Mapping[str, Any]]],
    as_json: bool,
) -> None:
    """Write the page of a run and print where it is, or print its document."""
    from tokentape.replay.view.run_page import ViewPage, check_page_path
    from tokentape.replay.view.stored import stored_document

    recording = find_recording(opened, named)
    with output.working("reading the run"):
        target = to or Path(page_name(recording.started().name, recording.run_id))
        writes = to is not None or not as_json
        if writes:
            check_page_path(target)
        page = ViewPage(stored_document(opened, recording, reports=reports))
        if writes:
            page.save(target)
    if as_json:
        output.print_json(page.document)
    else:
        out.line(f"{target}, {size_text(target.stat().st_size)}: open it in a browser")


def page_name(name: str, run_id: str) -> str:
    """Return the file name of a run's page: its name, and the beginning of its id."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:_NAME_CHARS]
    return f"{plain or 'run'}-{re.sub(r'[^0-9A-Za-z-]', '', run_id)[:_ID_CHARS]}.html"


def size_text(size: int) -> str:
    """Return a number of bytes in kB or MB."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _check_not_served(
    port: int,
    no_open: bool,
    model: str | None,
    loading: "LoadingKeywords",
    tools: Path | None,
) -> None:
    """Raise BadParameter for an option that only a server uses."""
    given: dict[str, object] = {
        "--port": port,
        "--no-open": no_open,
        "--model": model,
        "--tools": tools,
    }
    given |= {f"--{name.replace('_', '-')}": each for name, each in loading.items()}
    for name, value in given.items():
        if value not in (None, 0, False):
            raise typer.BadParameter(f"{name} needs --serve")


def _read_report(given: str) -> tuple[str, Mapping[str, Any]]:
    """Return a report with its label, by default the name of its file without the suffix.

    Raise ReplayError if the file is no report.
    """
    label, equals, rest = given.partition("=")
    path = expand_path(given)
    if equals and not path.exists():
        path = expand_path(rest)
    else:
        label = path.stem
    from tokentape.recorder.limits import load_json

    try:
        report = load_json(path.read_bytes())
    except OSError as error:
        raise tt.ReplayError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise tt.ReplayError(f"{path} is no JSON: {error}") from None
    expected = {"run_id": str, "replay": str, "verdict": str, "turns": list}
    if not isinstance(report, dict) or not all(
        isinstance(report.get(name), kind) for name, kind in expected.items()
    ):
        raise tt.ReplayError(
            f"{path} is no report of a replay: write one with `tokentape verify RUN --json`"
        )
    return label, report
