"""Where figures go: tables on standard output, and a JSON file for whoever goes on with them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine, this_machine
from tokentape import output


class Report:
    def __init__(self, console: Console, machine: Machine) -> None:
        self._console = console
        self.figures: dict[str, Any] = {"machine": machine.described()}
        self.say(machine.line())

    def say(self, line: str = "") -> None:
        self._console.print(line, markup=False)

    def show(self, table: Table) -> None:
        self.say()
        self._console.print(table)

    def keep(self, name: str, figures: Any) -> None:
        """Figures under a name, made of what JSON can hold."""
        self.figures[name] = figures


@contextmanager
def reported(json_path: Path | None) -> Iterator[Report]:
    """A report that says first what it was measured on; the file is written where all went well."""
    report = Report(output.console(), this_machine())
    yield report
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report.figures, indent=2) + "\n", encoding="utf-8")
