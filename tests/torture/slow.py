"""The tests that are marked slow, as one attack of fixed size."""

import re
import subprocess
import sys
from collections.abc import Iterator

from tests.torture.tally import Row, Torture

_TEST_S = 3600
"""A slow test that takes longer hangs. The limit of other tests, 600 s, is too short for some."""
_SUMMARY = re.compile(r"(\d+) (passed|failed|errors?)\b")


def slow(torture: Torture) -> Iterator[Row]:
    """Run `pytest -m slow`: benchmarks, long runs, the demo model, reports in a browser."""
    row = Row("tests marked slow")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "-p", "no:cacheprovider"]
    command += ["--basetemp", str(torture.folder / "pytest")]
    command += ["-o", f"faulthandler_timeout={_TEST_S}"]
    done = subprocess.run(command, capture_output=True, text=True)
    counts = {word.rstrip("s"): int(count) for count, word in _SUMMARY.findall(done.stdout)}
    row.unexpected = counts.get("failed", 0) + counts.get("error", 0)
    row.tried = row.unexpected + counts.get("passed", 0)
    if done.returncode and not row.unexpected:
        row.tried = row.unexpected = 1
        row.note(done.stdout[-300:] + done.stderr[-300:])
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            row.note(line)
    yield row
