"""Who keeps the conversation in this process: tokentape, and the least that SQLite can do."""

import contextlib
import gc
import sqlite3
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tokentape as tt
from benchmarks.contenders import recording_file
from benchmarks.workload import Workload
from tokentape.recorder.events import TokenSampled

BARE = "bare sqlite3"
"""The limit that everybody is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A conversation that one contender kept once.

    `seconds` are all that keeping it took, `token_seconds` those of its tokens alone where they
    are kept one by one; `when` says when that is. `all_bytes` are whatever was written for the
    conversation, `token_bytes` the tokens alone where they can be told apart; `counted` says how.
    `precise_bytes` are all bytes where candidates come in float32 and are kept so.
    """

    name: str
    seconds: float
    when: str
    all_bytes: int
    counted: str
    token_seconds: float | None = None
    token_bytes: int | None = None
    precise_bytes: int | None = None


class _Clock:
    """Says what it is told: recorded at the speed of a disk, times would compress too well."""

    def __init__(self) -> None:
        self.at_us = 0

    def __call__(self) -> int:
        return self.at_us


def record(workload: Workload, log: tt.EventLog) -> tuple[str, float, float]:
    """The run's id, the seconds of all its events, and those of its tokens."""
    clock = _Clock()
    clock.at_us = workload.events[0][0]
    recorder = tt.Recorder(log, clock_us=clock)
    of_tokens = 0.0
    gc.collect()
    began = time.perf_counter()
    for at_us, event in workload.events:
        clock.at_us = at_us
        before = time.perf_counter()
        recorder.record(event)
        if isinstance(event, TokenSampled):
            of_tokens += time.perf_counter() - before
    recorder.finish()
    return recorder.run_id, time.perf_counter() - began, of_tokens


def keep_live(workload: Workload, folder: Path) -> list[Kept]:
    """A commit an event, synced to the disk where a turn begins and ends."""
    path, blank, empty = folder / "live.db", folder / "blank.db", folder / "empty.db"
    with recording_file(path) as store:
        _, seconds, of_tokens = record(workload, store)
    recording_file(blank).close()
    token_bytes, alone = _table_bytes(path, "tokens"), "pages of its table `tokens`"
    if token_bytes is None:
        alone = "growth by the tokens"
        with recording_file(empty) as store:
            record(workload.without_tokens(), store)
        token_bytes = _file_bytes(path) - _file_bytes(empty)
    return [
        Kept(
            name="tokentape, live",
            seconds=seconds,
            when="a commit a token, synced where a turn begins and ends",
            token_seconds=of_tokens,
            token_bytes=token_bytes,
            all_bytes=_file_bytes(path) - _file_bytes(blank),
            counted=f"growth of the file; {alone}",
        )
    ]


def keep_sealed(workload: Workload, folder: Path) -> list[Kept]:
    """What it takes to seal a run that is in a store already."""
    kinds = {"top-5": workload, "no candidates": workload.without_candidates()}
    return [
        _sealed(kind, each, folder / f"sealed-{number}")
        for number, (kind, each) in enumerate(kinds.items())
    ]


def _sealed(kind: str, workload: Workload, folder: Path) -> Kept:
    with recording_file(folder / "live.db") as store:
        run_id, *_ = record(workload, store)
        gc.collect()
        began = time.perf_counter()
        tt.export_parquet(store.recording(run_id), store, folder / "sealed")
        seconds = time.perf_counter() - began
    return Kept(
        name=f"tokentape, sealed, {kind}",
        seconds=seconds,
        when="all at once, after the run",
        token_bytes=_folder_bytes(folder / "sealed" / "tokens"),
        all_bytes=_folder_bytes(folder / "sealed"),
        counted="all files of the run; the file of its tokens",
    )


def keep_bare(workload: Workload, folder: Path) -> list[Kept]:
    """A packed row a token and a row a turn, and nothing between them and the file."""
    path = folder / "bare.db"
    of_tokens = 0.0
    with _bare_file(path) as connection:
        empty_bytes = _file_bytes(path)
        gc.collect()
        began = time.perf_counter()
        for turn, exchange in enumerate(workload.exchanges, 1):
            before = time.perf_counter()
            for token in exchange.tokens:
                connection.execute(_INSERT_TOKEN, _packed(token))
            of_tokens += time.perf_counter() - before
            connection.execute(_INSERT_TURN, (turn, exchange.question, exchange.reply))
        seconds = time.perf_counter() - began
    return [
        Kept(
            name=BARE,
            seconds=seconds,
            when="a commit a token, never synced",
            token_seconds=of_tokens,
            token_bytes=_table_bytes(path, "tokens"),
            all_bytes=_file_bytes(path) - empty_bytes,
            counted="growth of the file; pages of its table `tokens`",
        )
    ]


_INSERT_TOKEN = "INSERT INTO tokens (ids, floats) VALUES (?, ?)"
_INSERT_TURN = "INSERT INTO turns VALUES (?, ?, ?)"


@contextlib.contextmanager
def _bare_file(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE tokens (seq INTEGER PRIMARY KEY, ids BLOB, floats BLOB)")
    connection.execute("CREATE TABLE turns (turn INTEGER PRIMARY KEY, question TEXT, reply TEXT)")
    try:
        yield connection
    finally:
        connection.close()


def _packed(token: TokenSampled) -> tuple[bytes, bytes]:
    count = len(token.top_ids)
    floats = (
        token.logprob,
        token.logprob_processed,
        token.entropy,
        token.top_gap,
        token.duration_us,
        *token.top_logprobs,
    )
    ids = struct.pack(f"<{count + 1}i", token.token_id, *token.top_ids)
    return ids, struct.pack(f"<{count + 5}f", *floats)


def _file_bytes(path: Path) -> int:
    """Of a SQLite file with all that its log holds, but for the pages that are free."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        free, page_bytes = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("freelist_count", "page_size")
        )
    return path.stat().st_size - int(free) * int(page_bytes)


def _table_bytes(path: Path, table: str) -> int | None:
    """Pages of a table; None where there is no such table, or SQLite was built without dbstat."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            query = "SELECT sum(pgsize) FROM dbstat WHERE name = ?"
            (found,) = connection.execute(query, (table,)).fetchone()
        except sqlite3.OperationalError:
            return None
    return None if found is None else int(found)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
