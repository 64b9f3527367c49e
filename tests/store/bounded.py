"""Commands in child processes with bounded memory, and what they took."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY_MB_MAX = 500
SECONDS_MAX = 10.0
_ADDRESSES_BYTES = 3 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command took and printed."""

    code: int
    """The exit code; negative for a signal."""
    memory_mb: float
    """The peak of its resident memory."""
    seconds: float
    stdout: str
    stderr: str

    @property
    def is_bounded(self) -> bool:
        return self.memory_mb < MEMORY_MB_MAX and self.seconds < SECONDS_MAX

    @property
    def last_line(self) -> str:
        lines = (self.stdout + self.stderr).strip().splitlines()
        return lines[-1] if lines else ""


def commands(path: Path, scratch: Path) -> dict[str, list[str]]:
    """Return by name the commands that read a store of a stranger, as arguments of Python."""
    cli = ["-m", "tokentape"]
    found = {
        "list": [*cli, "list", "--store", str(path)],
        "show": [*cli, "show", "--store", str(path)],
        "check": [*cli, "check", "--store", str(path)],
        "import": [*cli, "import", str(path), "--store", str(scratch / "imported.db")],
    }
    if path.suffix == ".tape":
        tapes = ["--tapes", str(path.parent), "--tape-mode=rebuild", str(path)]
        found["pytest"] = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tapes]
    return found


def run(arguments: Sequence[str], folder: Path, *, seconds: float = 60) -> Outcome:
    """Run Python in a child with 3 GB of addresses; it is killed after `seconds`.

    A small process between this one and the child measures: a child begins with the peak of the
    process that it was forked from.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    measured = folder / "measured"
    given = [str(_ADDRESSES_BYTES), str(seconds), str(measured), sys.executable, *arguments]
    with (folder / "stdout").open("w+b") as stdout, (folder / "stderr").open("w+b") as stderr:
        subprocess.run(
            [sys.executable, "-S", "-c", _MEASURE, *given],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            check=True,
        )
        stdout.seek(0)
        stderr.seek(0)
        code, memory_kb, took = json.loads(measured.read_text())
        return Outcome(
            code=code,
            memory_mb=memory_kb / 1024,
            seconds=took,
            stdout=stdout.read().decode(errors="replace"),
            stderr=stderr.read().decode(errors="replace"),
        )


_MEASURE = """
import json, os, resource, subprocess, sys, time
addresses, seconds, measured, *command = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_AS, (int(addresses),) * 2)
started = time.monotonic()
process = subprocess.Popen(command)
try:
    code = process.wait(float(seconds))
except subprocess.TimeoutExpired:
    process.kill()
    code = process.wait()
took = time.monotonic() - started
memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
with open(measured, "w") as file:
    json.dump([code, memory, took], file)
"""
