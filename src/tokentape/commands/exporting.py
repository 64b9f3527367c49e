"""The command `export`: write runs in the formats of other programs."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.completion import complete_run
from tokentape.commands.copies import report_unsealed_events
from tokentape.commands.options import (
    RUN_HELP,
    JsonOption,
    StoreOption,
    find_recording,
    locate_run,
    open_stored,
)
from tokentape.commands.output_paths import output_location
from tokentape.recorder.short_forms import counted
from tokentape.screen import err, out
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.commands.options import Store


class Form(StrEnum):
    """A format that `export` writes."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    CSV = "csv"
    EVAL = "eval"
    SCOUT = "scout"
    OTLP = "otlp"
    DATASETTE = "datasette"


def export(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help=f"{RUN_HELP}; by default the newest run.",
            autocompletion=complete_run,
        ),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            parser=output_location,
            metavar="PATH",
            help="The folder to write to; for jsonl, eval, otlp and datasette the file. For "
            "parquet, jsonl and csv also its URL in an object store.",
        ),
    ] = None,
    to: Annotated[Form, typer.Option(help="The format to write.")] = Form.PARQUET,
    all_runs: Annotated[bool, typer.Option("--all", help="Export all runs of the store.")] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Of otlp: the collector, in place of a file."),
    ] = None,
    content: Annotated[
        bool, typer.Option("--content", help="Of otlp: the texts of messages and tools, too.")
    ] = False,
    store: StoreOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Export runs as Parquet, JSON lines or CSV, or for Inspect, Scout, OpenTelemetry, Datasette.

    eval is a log of Inspect, scout a transcript database of Inspect Scout, otlp are spans of
    OpenTelemetry, and datasette is a metadata file that describes the whole store.
    """
    _check_options(to, path, endpoint, content)
    if to is Form.DATASETTE and (runs or all_runs):
        raise typer.BadParameter("--to datasette describes a whole store: name no run")
    if all_runs and runs:
        raise typer.BadParameter("--all takes every run: name none")
    located = [locate_run(run, store) for run in runs or (None,)]
    stores = list(dict.fromkeys(each for _, each in located))
    if len(stores) > 1:
        raise tt.StoreError(f"runs of one store are exported: these are in {', '.join(stores)}")
    opened = open_stored(stores[0])
    if to is Form.DATASETTE:
        recordings = []
    elif all_runs:
        recordings = [opened.recording(each.run_id) for each in opened.summaries()]
        if not recordings:
            raise tt.NothingToReplayError(f"{opened.where} holds no run")
    else:
        recordings = [find_recording(opened, run) for run, _ in located]
    with output.working("exporting"):
        files = _export(to, recordings, opened, path, endpoint=endpoint, content=content)
    if to is Form.PARQUET:
        report_unsealed_events(recordings)
    if as_json:
        output.print_json([str(file) for file in files])
    elif files:
        out.lines(map(str, files))
    elif to is Form.PARQUET:
        names = ", ".join(each.run_id for each in recordings)
        err.line(f"{path} already has run {names} up to its last seal")


def _check_options(to: Form, path: str | None, endpoint: str | None, content: bool) -> None:
    """Raise BadParameter for options that the format does not have, or without a place to write."""
    if to is not Form.OTLP and (endpoint is not None or content):
        name = "--content" if endpoint is None else "--endpoint"
        raise typer.BadParameter(f"{name} needs --to otlp")
    if endpoint is not None and path is not None:
        raise typer.BadParameter("--endpoint sends the spans: leave out --output")
    if endpoint is None and path is None:
        other = " or a collector with --endpoint" if to is Form.OTLP else ""
        raise typer.BadParameter(f"name the file or folder to write with --output (-o){other}")


def _export(
    to: Form,
    recordings: Sequence[tt.Recording],
    opened: "Store",
    path: str | None,
    *,
    endpoint: str | None,
    content: bool,
) -> Sequence[Path | str]:
    """Export the runs and return the files."""
    if to is Form.PARQUET and path is not None:
        return [file for each in recordings for file in tt.export_parquet(each, opened, path)]
    if to is Form.JSONL and path is not None:
        return [tt.export_jsonl(recordings, opened, path)]
    if to is Form.CSV and path is not None:
        if len(recordings) > 1:
            raise tt.StoreError(f"--to csv writes the tables of one run, not of {len(recordings)}")
        return tt.export_csv(opened, recordings[0].run_id, path)
    local = None if path is None else _on_this_machine(to, path)
    return _export_foreign(to, recordings, opened, local, endpoint=endpoint, content=content)


def _on_this_machine(to: Form, path: str) -> Path:
    """Return the path of a file or folder. Raise BadParameter for a URL of an object store."""
    from tokentape.store.objects.urls import file_location

    place = file_location(path)
    if not isinstance(place, Path):
        raise typer.BadParameter(
            f"--to {to} writes to this machine, not to {place}: copy the files there"
        )
    return place


def _export_foreign(
    to: Form,
    recordings: Sequence[tt.Recording],
    opened: "Store",
    path: Path | None,
    *,
    endpoint: str | None,
    content: bool,
) -> list[Path]:
    """Export the runs for another program and return the files."""
    if to is Form.OTLP:
        spans = tt.export_otlp(recordings, opened, endpoint=endpoint, path=path, content=content)
        err.line(f"{counted(spans, 'span')} of {counted(len(recordings), 'run')}")
        return [] if path is None else [path]
    assert path is not None
    if to is Form.EVAL:
        return [tt.export_eval(recordings, opened, path)]
    if to is Form.SCOUT:
        return tt.export_scout(recordings, opened, path)
    return [tt.export_datasette(opened, path)]
