"""The JSON file of the benchmark, written again after each finding."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FORMAT = 1
WAITING, RUNNING, FINISHED = "waiting", "running", "finished"
FAILED, OVER, NO_TIME = "failed", "over its limit", "no time left"


@dataclass(slots=True)
class Findings:
    """All that was measured so far, and the state of each part of each section."""

    path: Path
    device: str
    tiny: bool
    minutes: float
    parts: list[dict[str, Any]] = field(default_factory=list)
    """One entry for each process: section, dtypes, status, seconds, error, findings."""
    finished: bool = False
    _day: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    _began: float = field(default_factory=time.perf_counter)

    def add_part(self, section: str, dtypes: Sequence[str]) -> dict[str, Any]:
        """Return the entry of a part that has not begun. It is written with the next `write`."""
        entry: dict[str, Any] = {
            "section": section,
            "dtypes": list(dtypes),
            "status": WAITING,
            "seconds": 0.0,
            "error": "",
            "findings": [],
        }
        self.parts.append(entry)
        return entry

    def to_json(self) -> dict[str, Any]:
        """Return all that is known now, as plain values."""
        return {
            "benchmark": "gpu",
            "format": FORMAT,
            "day": self._day,
            "device": self.device,
            "size": "tiny" if self.tiny else "full",
            "minutes": self.minutes,
            "seconds": round(time.perf_counter() - self._began, 1),
            "finished": self.finished,
            "parts": self.parts,
        }

    def write(self) -> None:
        """Replace the file, in one step: a process that is killed leaves a complete one."""
        text = json.dumps(self.to_json(), indent=1)
        unfinished = self.path.with_name(f"{self.path.name}.new")
        unfinished.write_text(text + "\n", encoding="utf-8")
        os.replace(unfinished, self.path)


def read_findings(path: Path) -> dict[str, Any]:
    """Return the figures of a file that `Findings` wrote.

    Raise ValueError, in one line, if it is no such file or has another format.
    """
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as figures of the benchmark: {error}") from None
    if not isinstance(figures, dict) or figures.get("benchmark") != "gpu":
        raise ValueError(f"{path} holds no figures of `python -m benchmarks gpu`")
    if figures.get("format") != FORMAT:
        raise ValueError(f"{path} has format {figures.get('format')!r}; known is {FORMAT}")
    return figures


def completed(figures: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures with the parts that did not finish taken from another run.

    A part that is taken has the day of its run under `taken_from`. Raise ValueError if the runs
    were of unlike cards, versions or sizes: their figures do not belong on one page.
    """
    for what, first, second in (("size", figures["size"], other["size"]), *_unlike(figures, other)):
        if first != second:
            raise ValueError(f"the runs do not belong together: {what} {first!r} and {second!r}")
    finished = {_name(each): each for each in other["parts"] if each["status"] == FINISHED}
    parts = [
        finished[_name(each)] | {"taken_from": other["day"]}
        if each["status"] != FINISHED and _name(each) in finished
        else each
        for each in figures["parts"]
    ]
    return {**figures, "parts": parts}


def _unlike(figures: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    first, second = (
        next(found(each, "environment", "environment"), {}) for each in (figures, other)
    )
    for name in ("gpu", "torch", "transformers", "driver"):
        yield name, first.get(name), second.get(name)


def _name(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return (entry["section"], *entry["dtypes"])


def good(figures: Mapping[str, Any], section: str, what: str) -> Iterator[dict[str, Any]]:
    """Yield the findings of a section that have this name and are no errors."""
    return (each for each in found(figures, section, what) if "error" not in each)


def found(figures: Mapping[str, Any], section: str, what: str) -> Iterator[dict[str, Any]]:
    """Yield the findings of a section that have this name."""
    for entry in figures["parts"]:
        if entry["section"] == section:
            yield from (each for each in entry["findings"] if each["what"] == what)
