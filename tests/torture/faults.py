"""Faults drawn at random outside the documented list: detected, and never with a wrong cause."""

import importlib
from collections.abc import Iterator

from tests.torture.tally import Row, Torture


def faults(torture: Torture) -> Iterator[Row]:
    """Inject faults of `tests/replay/random_faults.py`; a wrong cause is unexpected."""
    harness = importlib.import_module("tests.replay.random_faults")
    first = torture.random().randrange(2**20)
    for replay in ("verify", "retrace"):
        row, moved, unknown = Row(f"random fault: {replay}"), 0, 0
        for seed in range(first, first + torture.count(100)):
            with row.attempt(f"seed {seed}"):
                found = harness.inject(seed, replay)
                moved += found.moved
                unknown += any(each.name == "unknown" for each in found.report.causes)
                if found.wrong_causes:
                    causes = ", ".join(found.wrong_causes)
                    raise ValueError(f"{found.name} has the wrong cause {causes}")
                assert found.is_right, f"{found.name} is not detected"
        row.remark = f"{moved} move numbers beyond the floor, {unknown} unknown causes"
        yield row
