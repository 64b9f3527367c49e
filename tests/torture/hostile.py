"""Files made to harm: every command that reads one stays small, fast and clear."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.store.bounded import commands, run
from tests.store.hostile_files import SEALED, Maker
from tests.store.hostile_others import OTHERS
from tests.store.hostile_tapes import TAPES
from tests.torture.tally import Row, Torture

STORES: dict[str, Maker] = {**SEALED, **TAPES, **OTHERS}
_CODES = (0, 1, 2, 3, 4, 5)
"""4 is that of pytest for a collection without items."""


def hostile(torture: Torture) -> Iterator[Row]:
    """Run commands on each hostile file: one of them, in turn, up to size 1, else all."""
    for number, (name, make) in enumerate(STORES.items()):
        row = Row(f"hostile: {name.replace('_', ' ')}")
        folder = torture.folder / name
        (folder / "made").mkdir(parents=True)
        path = make(folder / "made")
        found = list(commands(path, folder).items())
        chosen = [found[number % len(found)]] if torture.size <= 1 else found
        largest = slowest = 0.0
        for command, arguments in chosen:
            with row.attempt(command):
                memory_mb, seconds = _run(command, arguments, folder)
                largest, slowest = max(largest, memory_mb), max(slowest, seconds)
        row.remark = f"at most {largest:.0f} MB and {slowest:.1f} s"
        yield row


def _run(command: str, arguments: list[str], folder: Path) -> tuple[float, float]:
    """Return the megabytes and seconds of a command. Raise RuntimeError if it is not bounded."""
    took = run(arguments, folder)
    if took.code not in _CODES or re.search("unexpected|Traceback", took.stdout + took.stderr):
        raise RuntimeError(f"{command} ends with {took.code}: {took.last_line}")
    if not took.is_bounded:
        raise RuntimeError(f"{command} takes {took.memory_mb:.0f} MB and {took.seconds:.1f} s")
    return took.memory_mb, took.seconds
