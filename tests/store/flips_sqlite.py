"""Single bits of a SQLite store flipped at random: each is found, or changes nothing that is read.

`flip_bits` makes a store, flips bits of copies of it and counts what came of them.
`python -m tests.store.flips_sqlite --count 500 --seed 1` prints the counts.
"""

import argparse
import contextlib
import io
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tokentape as tt
from tests.store.made_runs import verdict_of
from tests.store.schemas.dump import record
from tokentape import cli
from tokentape.recorder.events import ToolReturned
from tokentape.store import DatabaseStore
from tokentape.store.frames import frames
from tokentape.store.frames.columns import FRAMES

SECONDS_MAX = 10.0
"""A flip that takes longer counts as a hang."""
_CLASSES = {
    "the schema of": "schema",
    "cannot be read as a database": "pages",
    "is not a database": "header",
    "integrity": "pages",
    "Tree ": "pages",
    "Page ": "pages",
    "page ": "pages",
    "malformed": "pages",
    "index": "indexes",
    "seal": "seals",
    "summary": "summary",
    "payload": "payloads",
    "blob": "payloads",
    "a row of": "verdicts and floors",
    "without a run": "rows of no run",
    "counter": "counter of keys",
    "has schema": "version",
    "is damaged": "events",
}


@dataclass
class Flips:
    """What came of the flips; `silent`, `unexpected` and `hung` must stay empty."""

    count: int = 0
    detected: Counter[str] = field(default_factory=Counter)
    """By what found them: `open` or `check`, and the class of the message."""
    harmless: int = 0
    """Not detected, and every read equals that of the store without the flip."""
    silent: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    seconds_max: float = 0.0

    def __str__(self) -> str:
        found = ", ".join(f"{name} {n}" for name, n in self.detected.most_common())
        lines = [
            f"{self.count} flips of a SQLite file: {self.detected.total()} detected, "
            f"{self.harmless} without effect, {len(self.silent)} silent, "
            f"{len(self.unexpected)} unexpected, {len(self.hung)} hung; "
            f"the slowest took {self.seconds_max:.1f} s",
            f"detected by {found}",
            *self.silent,
            *self.unexpected,
            *self.hung,
        ]
        return "\n".join(lines)


def make_store(path: Path) -> None:
    """Record runs of every status with tools, a fork, verdicts, floors and a tombstone."""
    turn = {"tokens": 4, "mismatches": 1, "near_ties": 0, "logprob_difference_max": 0.25}
    report = {
        "reason": "one token differs",
        "model": "by hand",
        "floor": {"version": "mine"},
        "turns": [turn | {"margin_max": 0.125}] * 3,
        "duration_us": 1_234_567,
    }
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        record(store)
        for number, summary in enumerate(store.summaries()):
            store.add_verdict(verdict_of(summary.run_id, 10**15 + number, report=report))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def flip_bits(folder: Path, count: int, seed: int) -> Flips:
    """Flip `count` single bits, each in a copy of a store that is made in the folder."""
    sound, path = folder / "sound.db", folder / "flipped.db"
    make_store(sound)
    content = sound.read_bytes()
    run_ids = run_ids_of(sound)
    truth = dict(reads(sound, run_ids))
    assert not any(isinstance(said, tt.TokentapeError) for said in truth.values()), truth
    assert found_by_check(sound, run_ids) == ""
    chance, flips = random.Random(seed), Flips()
    for _ in range(count):
        at, bit = chance.randrange(len(content)), chance.randrange(8)
        flipped = bytearray(content)
        flipped[at] ^= 1 << bit
        path.write_bytes(flipped)
        _count(flips, f"bit {bit} of byte {at} ({excerpt(content, at)})", path, run_ids, truth)
        assert path.read_bytes() == flipped, f"reading changed the file: byte {at}"
    return flips


def _count(
    flips: Flips, where: str, path: Path, run_ids: list[str], truth: dict[str, object]
) -> None:
    began = time.monotonic()
    flips.count += 1
    try:
        found = found_by_check(path, run_ids)
        said = dict(reads(path, run_ids))
    except Exception as error:
        flips.unexpected.append(f"{where}: {type(error).__name__}: {error}")
        return
    finally:
        seconds = time.monotonic() - began
        flips.seconds_max = max(flips.seconds_max, seconds)
        if seconds > SECONDS_MAX:
            flips.hung.append(f"{where}: {seconds:.0f} s")
    if found:
        flips.detected[found] += 1
        return
    different = [name for name in truth if said.get(name) != truth[name]]
    if different:
        flips.silent.append(f"{where}: silent in {', '.join(different)}")
    else:
        flips.harmless += 1


def excerpt(content: bytes, at: int) -> str:
    """Return the bytes around a place, to see what was flipped."""
    return ascii(content[max(0, at - 12) : at + 12])


def run_ids_of(path: Path) -> list[str]:
    with tt.open_store(path) as store:
        return [summary.run_id for summary in store.summaries()]


def found_by_check(path: Path, run_ids: list[str]) -> str:
    """Return which class of fault `check` finds in one of the runs, or ""."""
    try:
        store = tt.open_store(path, must_exist=True)
    except tt.TokentapeError as error:
        return f"open: {class_of(str(error))}"
    with store:
        for run_id in run_ids:
            try:
                found = tt.check(store, run_id)
            except tt.TokentapeError as error:
                return f"check: {class_of(str(error))}"
            if found.faults or not found.is_sealed:
                return f"check: {class_of(''.join(found.faults[:1]))}"
    return ""


def class_of(message: str) -> str:
    return next((name for text, name in _CLASSES.items() if text in message), "other")


def reads(path: Path, run_ids: list[str]) -> Iterator[tuple[str, object]]:
    """Yield everything that is read of a store; an error of ours in place of what it refuses.

    Any other error is raised.
    """
    try:
        store = tt.open_store(path, must_exist=True)
    except tt.TokentapeError as error:
        yield "open", error
        return
    with store:
        for name, read in _reads_of(store, run_ids):
            yield name, _told(read)
    for view in sorted(FRAMES):
        yield f"view {view}", view_rows(path, view)
    for arguments in (["list"], ["list", "--json"], *(["show", each] for each in run_ids)):
        yield " ".join(arguments), said_by_command(*arguments, "--store", str(path))


def _reads_of(store: Any, run_ids: list[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    def frame(name: str) -> str:
        return repr(getattr(frames, name)(store).to_dict("list"))

    yield "summaries", store.summaries
    for name in sorted(FRAMES):
        yield name, partial(frame, name)
    for run_id in run_ids:
        yield f"events {run_id}", partial(events_of, store, run_id)
        yield f"records {run_id}", partial(records_of, store, run_id)
        yield f"rebuild {run_id}", partial(rebuilt, store, run_id)
        yield f"blobs {run_id}", partial(blobs_of, store, run_id)
        yield f"verdicts {run_id}", partial(store.verdicts, run_id)
        yield f"floors {run_id}", partial(store.floors, run_id)


def _told(read: Callable[[], object]) -> object:
    try:
        return read()
    except tt.TokentapeError as error:
        return error


def events_of(store: Any, run_id: str) -> list[tt.Envelope]:
    return list(store.recording(run_id).events())


def records_of(store: Any, run_id: str) -> list[Any]:
    return list(store.recording(run_id).records())


def rebuilt(store: Any, run_id: str) -> str:
    return repr(tt.rebuild(store.recording(run_id)))


def blobs_of(store: Any, run_id: str) -> list[bytes]:
    return [
        store.blob(each.event.payload_sha256)
        for each in store.recording(run_id).events()
        if isinstance(each.event, ToolReturned)
    ]


def view_rows(path: Path, view: str) -> object:
    """Return the rows of a view as SQLite gives them to any program."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        try:
            return sorted(map(repr, connection.execute(f"SELECT * FROM {view}")))
        except sqlite3.Error as error:
            return str(error)


def said_by_command(*arguments: str) -> tuple[object, str]:
    """Run a command in this process and return its exit code and output.

    Raise AssertionError if it ends in an error that it did not expect.
    """
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["tokentape", *arguments]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = before
    assert "unexpected" not in err.getvalue(), err.getvalue()
    return code, out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        flips = flip_bits(Path(folder), given.count, given.seed)
    print(flips)
    sys.exit(1 if flips.silent or flips.unexpected or flips.hung else 0)


if __name__ == "__main__":
    main()
