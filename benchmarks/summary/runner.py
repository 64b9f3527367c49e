"""Run parts one after the other, each in a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import this_machine
from benchmarks.summary.parts import BenchmarkPart, compared
from benchmarks.summary.results_file import (
    DIFFERS,
    FAILED,
    FINISHED,
    NOT_HERE,
    PartOutcome,
    read_results,
    write_results,
)

_ROOT = Path(__file__).parent.parent.parent
_COLUMNS = "160"
_LIMIT_S = 3 * 3600
_OVER = 124
"""The exit code of a part that took longer than the limit."""
_WAIT_S = 10
Say = Callable[[str], None]


def run_parts(
    parts: Iterable[BenchmarkPart],
    path: Path,
    *,
    threads: int,
    rounds: int | None,
    again: bool,
    say: Say,
) -> list[str]:
    """Run the parts that the file has no figures of; write the file after each.

    `again` runs them all. Outcomes of other parts stay in the file, and so do older figures of a
    part that fails. Return the names of the parts that did not finish. Raise ValueError if the file
    is not one of results, OSError if it cannot be written.
    """
    write_results(path, read_results(path))
    unfinished = []
    for part in parts:
        known = read_results(path).get(part.name)
        if known is not None and known.is_measured and not again:
            say(f"{part.name}: kept from {known.day}")
            unfinished += [part.name] * (known.status != FINISHED)
            continue
        say(f"{part.name}: about {part.minutes} minutes on quiet cores")
        outcome = run_part(part, threads=threads, rounds=rounds)
        unfinished += [part.name] * (outcome.status != FINISHED)
        if known is not None and known.is_measured and not outcome.is_measured:
            say(f"{part.name}: {outcome.status}, {outcome.reason}; kept from {known.day}")
            continue
        # Another run may have written its parts meanwhile.
        write_results(path, read_results(path) | {part.name: outcome})
        reason = f", {outcome.reason}" if outcome.reason else ""
        say(f"{part.name}: {outcome.status} in {outcome.seconds:,.0f} s{reason}")
    return unfinished


def run_part(
    part: BenchmarkPart,
    *,
    threads: int,
    rounds: int | None,
    program: tuple[str, ...] = (sys.executable, "-m", "benchmarks"),
) -> PartOutcome:
    """Run a part in a process, which ends with this call, also when it is interrupted."""
    arguments = part.arguments(threads=threads, rounds=rounds)
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        loads, began = [os.getloadavg()[0]], time.monotonic()
        code, output, errors = _run([*program, *arguments, "--json", str(figures)], Path(folder))
        loads.append(os.getloadavg()[0])
        outcome = PartOutcome(
            status=FAILED,
            reason=_last_line(errors) or f"exit code {code}",
            day=datetime.now(tz=UTC).date().isoformat(),
            seconds=round(time.monotonic() - began, 1),
            load=(round(loads[0], 1), round(loads[1], 1)),
            command=f"python -m benchmarks {' '.join(arguments)}",
            machine=this_machine().to_json() | {"threads": threads},
            output=tuple(line.rstrip() for line in output.strip("\n").splitlines()),
        )
        if code == 2:
            return replace(outcome, status=NOT_HERE)
        if code not in (0, 1) or not figures.is_file():
            return outcome
        return _with_figures(part, outcome, figures, code)


def _with_figures(part: BenchmarkPart, outcome: PartOutcome, path: Path, code: int) -> PartOutcome:
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        comparisons = tuple(compared(part, figures))
    except ValueError as error:
        return replace(outcome, reason=f"the figures of {part.name} are not read: {error}")
    status, reason = FINISHED, ""
    if code == 1:
        status, reason = DIFFERS, "results that must be equal differ"
    return replace(
        outcome,
        status=status,
        reason=reason,
        machine=figures.get("machine", outcome.machine),
        comparisons=comparisons,
    )


def _run(command: list[str], folder: Path) -> tuple[int, str, str]:
    """Return the exit code and what was printed on both streams."""
    output, errors = folder / "output", folder / "errors"
    environment = os.environ | {"COLUMNS": _COLUMNS}
    with output.open("wb") as out, errors.open("wb") as err:
        # In a group of its own, so that the processes that it starts end with it.
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            code = _OVER
        finally:
            _end(process)
    printed, said = (each.read_text("utf-8", errors="replace") for each in (output, errors))
    return code, printed, f"ended after {_LIMIT_S:,} s" if code == _OVER else said


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process, and those that it started, if they still run."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=_WAIT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(errors: str) -> str:
    """Return the last line that mentions an error or a refusal, or the last one."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    named = [line for line in lines if "error" in line.lower() or line.startswith("benchmarks:")]
    return (named or lines or [""])[-1][:300]
