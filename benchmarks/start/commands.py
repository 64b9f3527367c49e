"""The command `start`."""

import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.options import JsonOption, RoundsOption, demo_model, ticking
from benchmarks.report import open_report
from benchmarks.start import measure


def start_command(
    rounds: RoundsOption = 7,
    load_rounds: Annotated[int, typer.Option(min=1, help="Loads of the demo model.")] = 2,
    json_path: JsonOption = None,
) -> None:
    """Time commands that need no model, and loading the demo model."""
    with open_report(json_path) as report, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        run_id = measure.make_run(demo_model("cpu"), path)
        with ticking("commands", (rounds + 1) * 4) as tick:
            commands = measure.measure_commands(path, run_id, rounds=rounds, tick=tick)
        with ticking("loads", load_rounds * 2) as tick:
            loads = measure.measure_loading(rounds=load_rounds, tick=tick)
        report.show(_table("a new process", commands))
        report.show(_table("loading the demo model", loads))
        report.add("commands", commands)
        report.add("loading", loads)


def _table(title: str, seconds: dict[str, list[float]]) -> Table:
    table = Table(title, box=None)
    for heading in ("seconds", "min", "max", "rounds"):
        table.add_column(heading, justify="right")
    for name, taken in seconds.items():
        shown = (f"{of(taken):.2f}" for of in (median, min, max))
        table.add_row(name, *shown, str(len(taken)))
    return table
