"""Output of a benchmark: tables on standard output, and the figures in a JSON file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine, this_machine
from tokentape.screen import out


class Report:
    """Lines and tables for a console, and figures by name. Starts with the machine."""

    def __init__(self, console: Console, machine: Machine) -> None:
        self._console = console
        self.figures: dict[str, Any] = {"machine": machine.to_json()}
        self.print(machine.line())

    def print(self, line: str = "") -> None:
        """Print a line as it is, without markup."""
        self._console.print(line, markup=False)

    def show(self, table: Table) -> None:
        """Print an empty line and a table."""
        self.print()
        self._console.print(table)

    def add(self, name: str, figures: Any) -> None:
        """Add figures, made of values that JSON can hold, under a name."""
        self.figures[name] = figures


@contextmanager
def open_report(json_path: Path | None) -> Iterator[Report]:
    """Yield a report; write its figures to `json_path` unless the block raises."""
    report = Report(out.console(), this_machine())
    yield report
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report.figures, indent=2) + "\n", encoding="utf-8")
