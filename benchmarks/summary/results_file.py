"""The file of all results: read, checked, and written again after each part."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.summary.comparison import Comparison

VERSION = 1
FINISHED, DIFFERS, NOT_HERE, FAILED = "finished", "differs", "not here", "failed"
MEASURED = (FINISHED, DIFFERS)
_STATES = (*MEASURED, NOT_HERE, FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOutcome:
    """What came of running a part."""

    status: str
    """`finished`; `differs`: measured, but results that must be equal differ; `not here`: it
    cannot be measured on this machine; `failed`.
    """
    reason: str
    """Why it did not finish, or a remark on the run."""
    day: str
    """The day on which it ended, as 2026-01-31."""
    seconds: float | None
    load: tuple[float, float] | None
    """Load averages of a minute before and after the run: a busy machine is slower."""
    command: str
    machine: Mapping[str, Any]
    """Hardware and versions; see `benchmarks.machine`."""
    comparisons: tuple[Comparison, ...] = ()
    output: tuple[str, ...] = ()
    """The lines that the command printed."""

    @property
    def is_measured(self) -> bool:
        """Return whether there are figures."""
        return self.status in MEASURED


def read_results(path: Path) -> dict[str, PartOutcome]:
    """Return the outcomes in a file by the names of the parts, or none if there is no file.

    Raise ValueError for a file of another version or of another kind.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
        if version != VERSION:
            raise ValueError(f"version {version!r}, not {VERSION}")
        return {name: _outcome(each) for name, each in content["parts"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        kind = type(error).__name__
        raise ValueError(f"{path} is not a file of results: {kind}: {error}") from None


def write_results(path: Path, outcomes: Mapping[str, PartOutcome]) -> None:
    """Write the outcomes to a file, whole or not at all."""
    parts = {name: asdict(each) for name, each in outcomes.items()}
    text = json.dumps({"version": VERSION, "parts": parts}, indent=1, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _outcome(entry: Mapping[str, Any]) -> PartOutcome:
    values = {each.name: entry[each.name] for each in fields(PartOutcome)}
    if values["status"] not in _STATES:
        raise ValueError(f"unknown status {values['status']!r}")
    load: Sequence[float] | None = values["load"]
    return PartOutcome(
        **values
        | {
            "comparisons": tuple(Comparison(**each) for each in values["comparisons"]),
            "output": tuple(values["output"]),
            "load": None if load is None else (load[0], load[1]),
        }
    )
