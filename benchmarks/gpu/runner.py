"""The processes of the benchmark: one for each part of a section, within limits of time.

An error of CUDA makes its process useless for the rest of its life, so a process has one part.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import FAILED, FINISHED, NO_TIME, OVER, RUNNING, Findings
from benchmarks.gpu.sections import Section

ROOT = Path(__file__).resolve().parents[2]
_WORKER = (sys.executable, "-m", "benchmarks.gpu.worker")
_POLL_S = 0.1
_GRACE_S = 5.0
_LEAST_S = 3.0
"""A part is not begun with less time than this."""
_ERROR_LINES = 3


@dataclass(slots=True)
class _Process:
    """A running part."""

    section: Section
    entry: dict[str, Any]
    process: subprocess.Popen[bytes]
    findings: Path
    errors: Path
    began: float
    limit_s: float
    _read: int = 0
    _rest: bytes = field(default=b"")

    def new_findings(self) -> bool:
        """Append the findings that were written since the last call; return whether there are."""
        with self.findings.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        self._read += len(text)
        *lines, self._rest = (self._rest + text).split(b"\n")
        for line in lines:
            # A library may print, too.
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict) and "what" in found:
                    self.entry["findings"].append(found)
        return bool(lines)

    def ended(self) -> bool:
        """Return whether the process ended, after ending it if it is over its limit."""
        seconds = time.perf_counter() - self.began
        self.entry["seconds"] = round(seconds, 1)
        code = self.process.poll()
        if code is None and seconds < self.limit_s:
            return False
        if code is None:
            self.process.kill()
            self.process.wait()
        self.new_findings()
        if code == 0:
            self.entry["status"] = FINISHED
            return True
        self.entry["status"] = OVER if code is None else FAILED
        self.entry["error"] = self._error(code)
        return True

    def _error(self, code: int | None) -> str:
        """Return how the process ended, with the last lines that it wrote."""
        said = self.errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = " / ".join(line.strip() for line in said[-_ERROR_LINES:])[-600:]
        how = f"ended after {self.limit_s:.0f} s" if code is None else f"exit code {code}"
        return f"{how}: {last}" if last else how


def run_sections(
    sections: Sequence[Section],
    findings: Findings,
    *,
    jobs: int,
    worker: Sequence[str] = _WORKER,
    tick: Callable[[str], None] = lambda line: None,
) -> None:
    """Run the parts, at most `jobs` at a time, until the minutes of `findings` are over.

    `worker` is the command that measures a part. `tick` is called with a line for each part that
    ended.
    """
    deadline = time.perf_counter() + findings.minutes * 60.0
    waiting = [
        (each, findings.add_part(each.name, dtypes))
        for each in sections
        for dtypes in each.parts(tiny=findings.tiny)
    ]
    findings.write()
    running: list[_Process] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-gpu-") as folder:
        try:
            while waiting or running:
                while waiting and _may_begin(waiting[0][0], running, jobs):
                    section, entry = waiting.pop(0)
                    left = deadline - time.perf_counter()
                    if left < _LEAST_S:
                        entry["status"] = NO_TIME
                    else:
                        limit_s = min(section.limit_s, left)
                        begun = _begin(worker, section, entry, findings, Path(folder), limit_s)
                        running.append(begun)
                time.sleep(_POLL_S)
                for each in list(running):
                    changed = each.new_findings()
                    if each.ended():
                        running.remove(each)
                        tick(_line(each.entry))
                        changed = True
                    if changed:
                        findings.write()
        finally:
            for each in running:
                each.process.kill()
                each.process.wait()
    findings.finished = True
    findings.write()


def _may_begin(section: Section, running: Sequence[_Process], jobs: int) -> bool:
    if not running:
        return True
    return not section.alone and not running[0].section.alone and len(running) < jobs


def _begin(
    worker: Sequence[str],
    section: Section,
    entry: dict[str, Any],
    findings: Findings,
    folder: Path,
    limit_s: float,
) -> _Process:
    """Start the process of a part."""
    name = "-".join((section.name, *entry["dtypes"]))
    results, errors = folder / f"{name}.jsonl", folder / f"{name}.txt"
    command = [*worker, section.name]
    command += ["--dtypes", *entry["dtypes"]]
    command += ["--device", findings.device, "--folder", str(folder)]
    command += ["--seconds", str(limit_s + _GRACE_S)]
    command += ["--tiny"] if findings.tiny else []
    with results.open("wb") as out, errors.open("wb") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_variables(section),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=said,
        )
    entry["status"] = RUNNING
    return _Process(section, entry, process, results, errors, time.perf_counter(), limit_s)


def _variables(section: Section) -> dict[str, str]:
    """Return the environment of a part. Parts that run side by side have one thread each."""
    threads = {} if section.alone else {"OMP_NUM_THREADS": "1"}
    return threads | dict(os.environ) | {"HF_HUB_OFFLINE": "1"}


def _line(entry: dict[str, Any]) -> str:
    """Return a line for the terminal on a part that ended."""
    wrong = [each for each in entry["findings"] if "error" in each]
    name = " ".join((entry["section"], *entry["dtypes"]))
    errors = f", {len(wrong)} of them errors" if wrong else ""
    line = f"{name}: {entry['status']} after {entry['seconds']:.0f} s, "
    line += f"{len(entry['findings'])} findings{errors}"
    return f"{line}; {entry['error']}" if entry["error"] else line
