"""The commands `pack` and `import`: copy runs into a tape, and from files into a store."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.options import (
    JsonOption,
    StoreOption,
    find_recording,
    locate_run,
    open_stored,
)
from tokentape.commands.output_paths import output_location
from tokentape.recorder.seals import SealReport, check_seals
from tokentape.screen import err, out
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.store import Imported


def pack(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, each given as for show.")
    ],
    path: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            parser=output_location,
            metavar="FILE",
            help="The tape (a file) to write, or its URL in an object store.",
        ),
    ],
    store: StoreOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Pack runs into a tape: one file that every command can read."""
    located = [locate_run(run, store) for run in runs]
    stores = list(dict.fromkeys(each for _, each in located))
    if len(stores) > 1:
        raise tt.StoreError(f"a tape is packed from one store: these are in {', '.join(stores)}")
    opened = open_stored(stores[0])
    recordings = [find_recording(opened, run, only=True) for run, _ in located]
    with output.working("packing"):
        tape = tt.pack(recordings, opened, path)
    reports = report_unsealed_events(recordings)
    seals = {each.run_id: each.last_seal for each in reports}
    if as_json:
        output.print_json(
            {"tape": str(tape), "bytes": _size_of(tape)}
            | {"runs": sorted(seals), "last_seals": seals}
        )
        return
    out.line(str(tape))
    err.lines(f"run {run_id}: last seal {seal}" for run_id, seal in seals.items())


def import_(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A tape, a Parquet folder or a jsonl file; or conversations: a log of Inspect, or "
            "JSON lines of chat messages. Also their URL in an object store.",
        ),
    ],
    store: StoreOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Add runs to a live store, after checking their seals, or conversations without tokens."""
    from tokentape.store import DatabaseStore, database_url
    from tokentape.store.copies.importing import checked_copy
    from tokentape.store.objects.urls import file_location

    database_url(store)
    place = file_location(path)
    with output.working("importing"), checked_copy(place) as copy, tt.open_store(store) as opened:
        if not isinstance(opened, DatabaseStore):
            raise tt.StoreError(f"{store} is sealed: it can only be read")
        imported = copy.add_to(opened)
    if as_json:
        output.print_json([asdict(each) for each in imported])
        return
    for each in imported:
        out.line(f"{each.run_id}  {_import_result(each)}")


def _size_of(tape: Path | str) -> int:
    if isinstance(tape, Path):
        return tape.stat().st_size
    from tokentape.store.objects.object_path import ObjectPath
    from tokentape.store.objects.urls import ObjectUrl

    return ObjectPath.connect(ObjectUrl(tape)).size()


def _import_result(imported: "Imported") -> str:
    if not imported.added:
        return f"there already, {imported.events:,} events"
    if imported.added_events == imported.events:
        return f"added, {imported.events:,} events"
    return f"extended: {imported.added_events:,} events added, {imported.events:,} in all"


def report_unsealed_events(recordings: Sequence[tt.Recording]) -> list[SealReport]:
    """Report events after the last seal on standard error: copies leave them out.

    Return the reports on the seals of the runs.
    """
    reports = [check_seals(each.run_id, each.records()) for each in recordings]
    for recording, report in zip(recordings, reports, strict=True):
        if report.ok and report.unsealed_events:
            err.line(
                f"run {recording.run_id}: left out {report.unsealed_events:,} events of a turn "
                "that has not finished"
            )
    return reports
