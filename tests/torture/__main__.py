"""`python -m tests.torture [ATTACK …]`: attack tokentape and print what came of it.

TORTURE_SIZE scales the numbers: 1 takes minutes, 10 has those of the issue. TORTURE_SEED repeats an
earlier attack. The exit code is 1 if anything was silent, unexpected or lost.
"""

import importlib
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from tests.torture.tally import Attack, Row, Torture, run_attacks

ATTACKS = ("kills", "resumes", "flips", "hostile", "honest", "faults", "fuzz", "slow")
"""The modules; each has its attack under its own name."""
_LINE = "{:<44} {:>7} {:>7} {:>7} {:>10}  {}\n"


def main(names: list[str]) -> int:
    """Run the attacks, print a table, and return the exit code."""
    unknown = [name for name in names if name not in ATTACKS]
    if unknown:
        sys.stderr.write(f"no attack is named {unknown[0]}: {', '.join(ATTACKS)}\n")
        return 2
    size = float(os.environ.get("TORTURE_SIZE", "1"))
    seed = int(os.environ.get("TORTURE_SEED", random.SystemRandom().randrange(2**31)))
    sys.stdout.write(f"TORTURE_SIZE={size:g} TORTURE_SEED={seed}\n")
    sys.stdout.write(_LINE.format("kind", "tried", "held", "silent", "unexpected", ""))
    rows = []
    for name in names or ATTACKS:
        started = time.monotonic()
        for row in _rows(name, size, seed):
            rows.append(row)
            _print(row)
        sys.stdout.write(f"{name}: {time.monotonic() - started:.0f} s\n")
    total = Row("all", *(sum(getattr(row, each) for row in rows) for each in _COUNTS))
    _print(total)
    return 1 if total.silent or total.unexpected else 0


_COUNTS = ("tried", "silent", "unexpected")


def _rows(name: str, size: float, seed: int) -> Iterator[Row]:
    """Yield the rows of an attack, which has a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"torture-{name}-") as folder:
        yield from run_attacks(Torture(Path(folder), size, seed), _imported(name))


def _imported(name: str) -> Attack:
    """Return an attack that imports its module when it is run: one may be missing or broken."""

    def attack(torture: Torture) -> Iterator[Row]:
        found: Attack = getattr(importlib.import_module(f"tests.torture.{name}"), name)
        yield from found(torture)

    attack.__name__ = name
    return attack


def _print(row: Row) -> None:
    counts = (row.tried, row.held, row.silent, row.unexpected)
    sys.stdout.write(_LINE.format(row.kind, *(f"{each:,}" for each in counts), row.remark))
    sys.stdout.writelines(f"    {note}\n" for note in row.notes)
    sys.stdout.flush()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    # For the processes that attacks start.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    sys.exit(main(sys.argv[1:]))
