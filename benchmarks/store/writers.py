"""Writers that store a conversation in this process: tokentape, and a bare SQLite loop."""

import contextlib
import gc
import sqlite3
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tokentape as tt
from benchmarks.store.workload import Workload
from benchmarks.stores import open_file_store
from tokentape.recorder.events import TokenSampled

BARE = "bare sqlite3"
"""The lower limit that every writer is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """The time and the bytes of one writer storing the conversation once."""

    name: str
    seconds: float
    """Of the whole conversation."""
    when: str
    """When data reaches the file, for the table."""
    all_bytes: int
    """Of everything written for the conversation."""
    counted: str
    """How bytes were counted, for the table."""
    token_seconds: float | None = None
    """Of the tokens alone; None if they are not written one by one."""
    token_bytes: int | None = None
    """Of the tokens alone; None if they cannot be separated."""
    float32_bytes: int | None = None
    """Of everything, with the top log-probabilities stored in float32."""


class _Clock:
    """A clock that is set by hand.

    Events recorded as fast as the disk allows would have times that compress too well.
    """

    def __init__(self) -> None:
        self.at_us = 0

    def __call__(self) -> int:
        return self.at_us


def record(workload: Workload, log: tt.EventLog) -> tuple[str, float, float]:
    """Record the run; return its id, the seconds of all its events, and those of its tokens."""
    clock = _Clock()
    clock.at_us = workload.events[0][0]
    recorder = tt.Recorder(log, clock_us=clock)
    token_seconds = 0.0
    gc.collect()
    began = time.perf_counter()
    for at_us, event in workload.events:
        clock.at_us = at_us
        before = time.perf_counter()
        recorder.record(event)
        if isinstance(event, TokenSampled):
            token_seconds += time.perf_counter() - before
    recorder.finish()
    return recorder.run_id, time.perf_counter() - began, token_seconds


def write_live(workload: Workload, folder: Path) -> list[WriteResult]:
    """Record into a SQLite file: a commit for each event, a full sync at the ends of a turn."""
    path, blank, no_tokens = folder / "live.db", folder / "blank.db", folder / "no-tokens.db"
    with open_file_store(path) as store:
        _, seconds, token_seconds = record(workload, store)
    open_file_store(blank).close()
    token_bytes, alone = _table_bytes(path, "tokens"), "pages of its table `tokens`"
    if token_bytes is None:
        alone = "growth by the tokens"
        with open_file_store(no_tokens) as store:
            record(workload.without_tokens(), store)
        token_bytes = _file_bytes(path) - _file_bytes(no_tokens)
    return [
        WriteResult(
            name="tokentape, live",
            seconds=seconds,
            when="a commit a token, a full sync where a turn begins and ends",
            token_seconds=token_seconds,
            token_bytes=token_bytes,
            all_bytes=_file_bytes(path) - _file_bytes(blank),
            counted=f"growth of the file; {alone}",
        )
    ]


def write_sealed(workload: Workload, folder: Path) -> list[WriteResult]:
    """Seal a run that is in a store already, with the top log-probabilities and without."""
    kinds = {"top-5": workload, "no top-5": workload.without_top_logprobs()}
    return [
        _sealed(kind, each, folder / f"sealed-{number}")
        for number, (kind, each) in enumerate(kinds.items())
    ]


def _sealed(kind: str, workload: Workload, folder: Path) -> WriteResult:
    with open_file_store(folder / "live.db") as store:
        run_id, *_ = record(workload, store)
        gc.collect()
        began = time.perf_counter()
        tt.export_parquet(store.recording(run_id), store, folder / "sealed")
        seconds = time.perf_counter() - began
    return WriteResult(
        name=f"tokentape, sealed, {kind}",
        seconds=seconds,
        when="all at once, after the run",
        token_bytes=_folder_bytes(folder / "sealed" / "tokens"),
        all_bytes=_folder_bytes(folder / "sealed"),
        counted="all files of the run; its tokens file",
    )


def write_bare(workload: Workload, folder: Path) -> list[WriteResult]:
    """Insert a packed row for each token and a row for each turn straight into `sqlite3`."""
    path = folder / "bare.db"
    token_seconds = 0.0
    with _bare_file(path) as connection:
        empty_bytes = _file_bytes(path)
        gc.collect()
        began = time.perf_counter()
        for turn, exchange in enumerate(workload.exchanges, 1):
            before = time.perf_counter()
            for token in exchange.tokens:
                connection.execute(_INSERT_TOKEN, _packed(token))
            token_seconds += time.perf_counter() - before
            connection.execute(_INSERT_TURN, (turn, exchange.question, exchange.reply))
        seconds = time.perf_counter() - began
    return [
        WriteResult(
            name=BARE,
            seconds=seconds,
            when="a commit a token, never synced",
            token_seconds=token_seconds,
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
    """Return the bytes of a SQLite file after a checkpoint, without its free pages."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        free, page_bytes = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("freelist_count", "page_size")
        )
    return path.stat().st_size - int(free) * int(page_bytes)


def _table_bytes(path: Path, table: str) -> int | None:
    """Return the bytes of a table's pages; None without that table or without dbstat."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            query = "SELECT sum(pgsize) FROM dbstat WHERE name = ?"
            (found,) = connection.execute(query, (table,)).fetchone()
        except sqlite3.OperationalError:
            return None
    return None if found is None else int(found)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
