"""Commands that copy runs out of a store, and into one."""

import sys
from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.options import (
    JsonOption,
    RunArgument,
    StoreOption,
    find_recording,
    open_stored,
)
from tokentape.recorder.seals import check_seals
from tokentape.store import DEFAULT_URL, DatabaseStore, Imported
from tokentape.store.copies.importing import checked_copy


class Form(StrEnum):
    """What a run can be exported to."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    CSV = "csv"


def pack(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run ids or beginnings.")],
    path: Annotated[Path, typer.Option("--output", "-o", help="The tape to write.")],
    store: StoreOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Pack runs into a tape: one file that every command can read."""
    opened = open_stored(store)
    recordings = [opened.recording(run) for run in runs]
    with output.working("packing"):
        tt.pack(recordings, opened, path)
    _say_what_is_left_out(recordings)
    if as_json:
        run_ids = sorted({each.run_id for each in recordings})
        output.print_json({"tape": str(path), "bytes": path.stat().st_size, "runs": run_ids})
    else:
        sys.stdout.write(f"{path}\n")


def export(
    path: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write into; for jsonl the file.")
    ],
    run: RunArgument = None,
    to: Annotated[Form, typer.Option(help="What to write.")] = Form.PARQUET,
    store: StoreOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Export a run: sealed Parquet files, lines of JSON, or tables for spreadsheets."""
    opened = open_stored(store)
    recording = find_recording(opened, run)
    with output.working("exporting"):
        if to is Form.PARQUET:
            files = tt.export_parquet(recording, opened, path)
        elif to is Form.JSONL:
            files = [tt.export_jsonl([recording], opened, path)]
        else:
            files = tt.export_csv(opened, recording.run_id, path)
    if to is Form.PARQUET:
        _say_what_is_left_out([recording])
    if as_json:
        output.print_json([str(file) for file in files])
    elif files:
        sys.stdout.writelines(f"{file}\n" for file in files)
    else:
        sys.stderr.write(f"{path} has run {recording.run_id} up to its last seal already\n")


def import_(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A tape, a Parquet folder or a jsonl file.")
    ],
    store: StoreOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Add the runs of a copy to a live store, after a check of their seals."""
    with output.working("importing"), checked_copy(path) as copy, tt.open_store(store) as opened:
        if not isinstance(opened, DatabaseStore):
            raise tt.StoreError(f"{store} is sealed: it can only be read")
        imported = copy.add_to(opened)
    if as_json:
        output.print_json([asdict(each) for each in imported])
        return
    for each in imported:
        sys.stdout.write(f"{each.run_id}  {_came_of(each)}\n")


def _came_of(imported: Imported) -> str:
    if not imported.added:
        return f"there already, {imported.events:,} events"
    if imported.added_events == imported.events:
        return f"added, {imported.events:,} events"
    return f"went on: {imported.added_events:,} events added, {imported.events:,} in all"


def _say_what_is_left_out(recordings: Iterable[tt.Recording]) -> None:
    """Only what has a seal is sealed; of a run that was cut off, that is not all."""
    for recording in recordings:
        report = check_seals(recording.run_id, recording.records())
        if report.holds and report.unsealed_events:
            sys.stderr.write(
                f"run {recording.run_id}: left out {report.unsealed_events:,} events of a turn "
                "that has not finished\n"
            )
