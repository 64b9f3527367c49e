"""Erasure of a run: its content is deleted, a tombstone says that it existed."""

import glob
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tokentape.recorder import RecordingError
from tokentape.store.errors import NoSuchRunError, StoreError
from tokentape.store.live.tables import (
    SEQ_BITS,
    SEQ_MASK,
    blobs,
    events,
    floors,
    metadata,
    run_labels,
    runs,
    tokens,
    tombstones,
    verdicts,
)
from tokentape.store.location import is_in_memory
from tokentape.store.payloads import PAYLOAD_KINDS, payload_named

_TABLES = ", ".join(sorted(metadata.tables))


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """The result of erasing a run."""

    run_id: str
    events: int
    """Events and sampled tokens that were deleted."""
    blobs: int
    """Payloads that were deleted, because no other run refers to them."""
    last_seal: str | None
    backups: tuple[Path, ...]
    """Backups in the store's folder, which may still contain the run."""
    residue: str
    """Why its bytes may still be on disk; empty if the file was rewritten without them."""


def erase_run(engine: Engine, run_id: str, *, reason: str, at_us: int) -> Erasure:
    """Delete a run with all payloads that only it refers to, and leave a tombstone.

    That is one transaction. Then the store's file is rewritten, to remove the bytes, too. Raise
    StoreError for a run that was forked and if the database refuses, NoSuchRunError for an unknown
    run.
    """
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            run_key = _locked_run(connection, run_id)
            _check_not_forked(connection, run_id)
            counted = _bury(connection, run_key, run_id, reason=reason, at_us=at_us)
            connection.commit()
    except DBAPIError as error:
        raise StoreError(f"cannot erase run {run_id}: {error.orig}; nothing was erased") from None
    event_count, blob_count, last_seal = counted
    return Erasure(
        run_id=run_id,
        events=event_count,
        blobs=blob_count,
        last_seal=last_seal,
        backups=_backups_of(engine.url),
        residue=_rewrite(engine),
    )


def _check_not_forked(connection: Connection, run_id: str) -> None:
    query = select(runs.c.run_id).where(runs.c.parent_run_id == run_id)
    forks = connection.execute(query).scalars().all()
    if forks:
        more = f" and {len(forks) - 1} more" if len(forks) > 1 else ""
        raise StoreError(
            f"run {run_id} was forked: run {forks[0]}{more} would lose its first events; erase "
            "the forks first"
        )


def _locked_run(connection: Connection, run_id: str) -> int:
    """Return the key of the run, locked against other writers until the transaction ends.

    The triggers on inserts take the same lock. SQLite has only one writer anyway. Raise
    NoSuchRunError for an unknown run.
    """
    query = select(runs.c.run_key).where(runs.c.run_id == run_id)
    run_key = connection.execute(query).scalar_one_or_none()
    if run_key is not None and connection.dialect.name != "sqlite":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": run_key})
        # Another process may have erased it meanwhile.
        run_key = connection.execute(query).scalar_one_or_none()
    if run_key is None:
        raise NoSuchRunError(f"there is no run {run_id}")
    return int(run_key)


def _bury(
    connection: Connection, run_key: int, run_id: str, *, reason: str, at_us: int
) -> tuple[int, int, str | None]:
    """Delete the rows; return the number of events, the number of blobs and the last seal.

    The tombstone comes first: triggers only let the rows of a buried run go.
    """
    lowest, highest = run_key << SEQ_BITS, run_key << SEQ_BITS | SEQ_MASK
    in_events = events.c.event_key.between(lowest, highest)
    in_tokens = tokens.c.event_key.between(lowest, highest)
    sealed = select(events.c.seal).where(in_events, events.c.seal.is_not(None))
    last_seal = connection.execute(sealed.order_by(events.c.event_key.desc()).limit(1)).scalar()
    payloads = _payloads(connection, in_events)
    count = sum(
        connection.execute(select(func.count()).select_from(table).where(within)).scalar_one()
        for table, within in ((events, in_events), (tokens, in_tokens))
    )
    connection.execute(
        insert(tombstones).values(
            run_id=run_id, erased_at_us=at_us, reason=reason, events=count, last_seal=last_seal
        )
    )
    connection.execute(delete(tokens).where(in_tokens))
    connection.execute(delete(events).where(in_events))
    for table in (verdicts, floors, run_labels):
        connection.execute(delete(table).where(table.c.run_key == run_key))
    connection.execute(delete(runs).where(runs.c.run_key == run_key))
    gone = 0
    for sha256 in payloads - _payloads(connection, events.c.event_key >= 0):
        gone += connection.execute(delete(blobs).where(blobs.c.sha256 == sha256)).rowcount
    return count, gone, last_seal


def _payloads(connection: Connection, within: Any) -> set[str]:
    """Return the payloads that events refer to. A damaged event refers to none."""
    query = select(events.c.kind, events.c.body).where(within, events.c.kind.in_(PAYLOAD_KINDS))
    found = set()
    for row in connection.execute(query):
        with suppress(RecordingError):
            found.add(payload_named(row.kind, row.body))
    return found


def _rewrite(engine: Engine) -> str:
    """Rewrite the tables: free pages and logs still contain the deleted bytes.

    Return why the bytes may remain, or an empty string.
    """
    if is_in_memory(engine.url):
        return ""
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # The database of a server may also have tables of another application.
            is_sqlite = engine.dialect.name == "sqlite"
            connection.exec_driver_sql("VACUUM" if is_sqlite else f"VACUUM {_TABLES}")
            if is_sqlite:
                row = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
                if row[0]:
                    return f"{engine.url.database}-wal is in use"
    except DBAPIError as error:
        return f"the store could not be rewritten: {error.orig}"
    if engine.dialect.name == "postgresql":
        return "the write-ahead log and backups of the server keep it until they are recycled"
    return ""


def _backups_of(url: URL) -> tuple[Path, ...]:
    if url.get_backend_name() != "sqlite" or is_in_memory(url):
        return ()
    path = Path(str(url.database))
    return tuple(sorted(path.parent.glob(f"{glob.escape(path.name)}.*.backup")))
