"""Files made to harm: every command that reads one stays small, fast and clear."""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.torture.tally import Row, Torture

BYTES_MAX = 500 * 1024**2
SECONDS_MAX = 10.0
"""As the issue asks; the machine must not be busy with anything else."""
_TIMEOUT_S = 60
_CODES = (0, 1, 2, 3, 5)
COMMANDS: dict[str, tuple[str, ...]] = {
    "list": ("list", "--json", "--store", "FILE"),
    "show": ("show", "--store", "FILE"),
    "check": ("check", "--store", "FILE"),
    "import": ("import", "FILE", "--store", "NEW"),
}

_FEW = ("list", "check")


def hostile(torture: Torture) -> Iterator[Row]:
    """Run commands on each hostile file: two of them up to size 1, else all."""
    harness = importlib.import_module("tests.store.hostile_files")
    names = [name for name in ("SEALED", "TAPES", "FILES") if hasattr(harness, name)]
    makers: dict[str, Callable[[Path], Path]] = {}
    for each in names:
        makers |= getattr(harness, each)
    commands = [each for each in COMMANDS.items() if torture.size > 1 or each[0] in _FEW]
    for name, make in makers.items():
        row = Row(f"hostile: {name.replace('_', ' ')}")
        folder = torture.folder / name
        folder.mkdir()
        path = make(folder)
        largest = 0
        for command, words in commands:
            with row.attempt(command):
                seconds, peak, code, text = _run(words, path, torture.folder)
                largest = max(largest, peak)
                told = f"{command}: exit code {code}, {seconds:.1f} s, {peak / 1e6:.0f} MB: {text}"
                if code not in _CODES or "unexpected" in text or "Traceback" in text:
                    raise RuntimeError(told)
                if seconds > SECONDS_MAX or peak > BYTES_MAX:
                    raise MemoryError(told)
        row.remark = f"at most {largest / 1e6:.0f} MB"
        yield row


def _run(words: tuple[str, ...], path: Path, folder: Path) -> tuple[float, int, int, str]:
    """Return the seconds, the peak of memory, the exit code and standard error of a command."""
    new = folder / "new.db"
    new.unlink(missing_ok=True)
    places = {"FILE": str(path), "NEW": str(new)}
    command = [sys.executable, "-m", "tokentape", *(places.get(each, each) for each in words)]
    started = time.monotonic()
    with (folder / "stderr").open("w+") as errors:
        process: Any = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - started > _TIMEOUT_S:
                process.kill()
            time.sleep(0.01)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        text = errors.read()
    # Linux counts kilobytes.
    return time.monotonic() - started, usage.ru_maxrss * 1024, process.returncode, text
