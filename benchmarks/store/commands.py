"""The command that measures storing a conversation."""

import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import tokentape as tt
from benchmarks.options import JsonOption, RoundsOption, demo_model, ticking
from benchmarks.report import Report, open_report
from benchmarks.rivals.environment import cache_folder
from benchmarks.store import frames, measure, tables
from benchmarks.store.workload import TURN_TOKENS, TURNS, Workload, make_workload


def store_command(
    rounds: RoundsOption = measure.ROUNDS,
    rows: Annotated[
        int, typer.Option(min=0, help="Token rows to read into pandas; 0 skips it.")
    ] = frames.ROWS,
    rivals: Annotated[
        bool, typer.Option("--rivals/--no-rivals", help="Install and measure Inspect and MLflow.")
    ] = True,
    environments: Annotated[
        Path | None,
        typer.Option(help="Folder to install them into; by default the user's cache."),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Measure the time and the bytes of storing a token.

    tokentape is compared with a bare SQLite loop, Inspect AI and MLflow.
    """
    same = True
    with open_report(json_path) as report, tempfile.TemporaryDirectory() as folder:
        lm = demo_model("cpu")
        workload = make_workload(lm)
        writers = measure.local_writers(workload)
        missing: dict[str, str] = {}
        if rivals:
            others, missing = measure.rival_writers(
                workload,
                lm.tokenizer,
                Path(folder),
                environments=environments or cache_folder(),
                notify=_notify,
            )
            writers |= others
        _report_writers(report, writers, missing, Path(folder), workload.tokens, rounds)
        if rows:
            same = _report_frames(report, lm, workload, Path(folder), rows)
    raise typer.Exit(0 if same else 1)


def _report_writers(
    report: Report,
    writers: Mapping[str, measure.Write],
    missing: Mapping[str, str],
    folder: Path,
    tokens: int,
    rounds: int,
) -> None:
    """Measure and print the time and the bytes of each writer."""
    report.print(
        f"{TURNS} turns of {TURN_TOKENS} tokens with the top five log-probabilities, the same for "
        f"every writer; SQLite {sqlite3.sqlite_version}"
    )
    with ticking("rounds", len(writers) * (rounds + 1)) as tick:
        figures = measure.measure_store(
            writers, folder, tokens=tokens, rounds=rounds, missing=missing, tick=tick
        )
    report.show(tables.time_table(figures))
    report.show(tables.bytes_table(figures))
    report.print(
        "\nfloat32: bytes with the top log-probabilities in float32, for writers that do not "
        "round them"
    )
    report.add("store", tables.to_json(figures))


def _report_frames(
    report: Report, lm: tt.LoadedModel, workload: Workload, folder: Path, rows: int
) -> bool:
    """Measure and print reading rows into pandas; return whether both stores give the same."""
    live, sealed = folder / "rows.db", folder / "rows"
    _notify(f"recording {rows:,} tokens and sealing them takes minutes")
    with ticking("turns", -(-rows // TURN_TOKENS)) as tick:
        written = frames.write_rows(workload, lm.tokenizer, live, sealed, rows=rows, tick=tick)
    figures, same = frames.measure_frames(live, sealed)
    report.show(tables.frames_table(figures))
    report.print(
        f"\n{rows:,} tokens were recorded in {written.record_seconds:.0f} s "
        f"and sealed in {written.seal_seconds:.0f} s; same frame from both: {same}"
    )
    report.add("frames", [asdict(each) for each in figures])
    report.add("written", asdict(written))
    return same


def _notify(line: str) -> None:
    sys.stderr.write(f"benchmarks: {line}\n")
