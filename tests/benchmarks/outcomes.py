"""Outcomes of parts, as `python -m benchmarks all` keeps them."""

from typing import Any

from benchmarks.summary.comparison import compare
from benchmarks.summary.results_file import FINISHED, PartOutcome

MACHINE = {"processor": "one", "cores": 2, "torch": "2.13.0"}


def outcome(**changes: Any) -> PartOutcome:
    made: dict[str, Any] = {
        "status": FINISHED,
        "reason": "",
        "day": "2026-01-31",
        "seconds": 90.0,
        "load": (0.5, 1.5),
        "command": "python -m benchmarks decode",
        "machine": MACHINE,
        "comparisons": (compare("a step", "ms", [10.0, 12.0], "generate", [11.0, 18.0]),),
        "output": ("a table",),
    }
    return PartOutcome(**made | changes)
