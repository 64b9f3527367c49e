"""The live store: one append-only stream a run, in SQLite."""

import heapq
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import pandas as pd
from sqlalchemy import (
    Engine,
    Row,
    Select,
    create_engine,
    event,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from recorder import Envelope, Recording, RecordingError
from recorder.codec import decode_body, encode_body, kind_of
from recorder.events import RunStarted, TokenSampled
from recorder.projections import RunSummary, changes_summary, summarise
from store.errors import NoSuchRunError, StoreError
from store.schema import bring_to_head, refuse_foreign_file
from store.tables import blobs, events, runs, tokens

TOKEN_COLUMNS = (
    "turn",
    "step",
    "position",
    "token_id",
    "logprob",
    "logprob_processed",
    "entropy",
    "top_gap",
    "duration_ms",
)
SUMMARY_COLUMNS = tuple(c.name for c in runs.columns if c.name not in ("run_key",))


class DatabaseStore:
    """Recordings in a SQLite database; use `open_store` to get one.

    A commit an event: an event that was appended is there when the process dies. `durable` ones
    are there when the power fails, too.
    """

    def __init__(self, url: URL) -> None:
        self.where = url.render_as_string()
        if url.database and url.database != ":memory:":
            path = Path(url.database)
            refuse_foreign_file(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(url)
        else:
            self._engine = create_engine(url, poolclass=StaticPool)
        _prepare_connections(self._engine)
        try:
            self._writer = self._engine.connect()
            bring_to_head(self._writer, self.where)
        except DatabaseError as error:
            self._engine.dispose()
            raise StoreError(f"cannot open {self.where}: {error.orig}") from None
        except StoreError:
            self.close()
            raise
        self._open_runs: dict[str, tuple[int, RunSummary]] = {}

    def close(self) -> None:
        self._writer.close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def append(self, envelope: Envelope, *, durable: bool) -> None:
        """Keep the event; see `recorder.EventLog`.

        Raises StoreError when the run has an event with that `seq` already: a run has one writer.
        """
        if durable:
            self._writer.exec_driver_sql("PRAGMA synchronous=FULL")
            self._writer.commit()
        kept = False
        try:
            self._insert(envelope)
            self._writer.commit()
            kept = True
        except IntegrityError:
            raise StoreError(
                f"run {envelope.run_id} has an event {envelope.seq} already: a run has one writer"
            ) from None
        except DatabaseError as error:
            raise StoreError(f"cannot write to {self.where}: {error.orig}") from None
        finally:
            if not kept:
                self._writer.rollback()
                self._open_runs.pop(envelope.run_id, None)
            if durable:
                self._writer.exec_driver_sql("PRAGMA synchronous=NORMAL")
                self._writer.commit()

    def _insert(self, envelope: Envelope) -> None:
        event_ = envelope.event
        if isinstance(event_, RunStarted):
            self._begin_run(envelope)
        run_key, summary = self._open_run(envelope.run_id)
        place = {"run_key": run_key, "seq": envelope.seq, "at_ns": envelope.at_ns}
        if isinstance(event_, TokenSampled):
            self._writer.execute(_INSERT_TOKEN, place | _token_row(event_))
        else:
            row = {
                "kind": kind_of(event_),
                "version": event_.version,
                "body": encode_body(event_),
            }
            self._writer.execute(_INSERT_EVENT, place | row)
        if changes_summary(event_):
            after = summarise(summary, envelope)
            assert after is not None
            self._writer.execute(
                update(runs).where(runs.c.run_key == run_key).values(_summary_row(after))
            )
            self._open_runs[envelope.run_id] = (run_key, after)

    def _begin_run(self, envelope: Envelope) -> None:
        summary = summarise(None, envelope)
        assert summary is not None
        result = self._writer.execute(insert(runs).values(_summary_row(summary)))
        key = result.inserted_primary_key
        assert key is not None
        self._open_runs[envelope.run_id] = (key[0], summary)

    def _open_run(self, run_id: str) -> tuple[int, RunSummary]:
        if run_id not in self._open_runs:
            row = self._writer.execute(select(runs).where(runs.c.run_id == run_id)).one_or_none()
            if row is None:
                raise NoSuchRunError(f"{self.where} has no run {run_id}")
            self._open_runs[run_id] = (row.run_key, _summary(row))
        return self._open_runs[run_id]

    def put_blob(self, sha256: str, payload: bytes) -> None:
        statement = sqlite_insert(blobs).values(sha256=sha256, payload=payload)
        self._writer.execute(statement.on_conflict_do_nothing())
        self._writer.commit()

    def blob(self, sha256: str) -> bytes:
        """The payload under a hexadecimal sha256. Raises StoreError where there is none."""
        with self._engine.connect() as reader:
            payload = reader.execute(
                select(blobs.c.payload).where(blobs.c.sha256 == sha256)
            ).scalar_one_or_none()
        if payload is None:
            raise StoreError(f"{self.where} has no blob {sha256}")
        return bytes(payload)

    def summaries(self) -> list[RunSummary]:
        """Every run, the newest last."""
        with self._engine.connect() as reader:
            rows = reader.execute(select(runs).order_by(runs.c.started_at_ns, runs.c.run_key))
            return [_summary(row) for row in rows]

    def recording(self, run_id: str) -> Recording:
        """The run with that id, or with the one id that begins so. Raises NoSuchRunError."""
        with self._engine.connect() as reader:
            matches = (
                reader.execute(
                    select(runs.c.run_id).where(runs.c.run_id.startswith(run_id, autoescape=True))
                )
                .scalars()
                .all()
            )
        full_id = only_match(matches, run_id, self.where)
        return Recording(full_id, lambda: self._read(full_id), self.where)

    def _read(self, run_id: str) -> Iterator[Envelope]:
        with self._engine.connect() as event_reader, self._engine.connect() as token_reader:
            event_rows = event_reader.execute(_of_run(select(events), events, run_id))
            token_rows = token_reader.execute(_of_run(select(tokens), tokens, run_id))
            merged = heapq.merge(
                (_envelope(run_id, row) for row in event_rows.yield_per(1000)),
                (_token_envelope(run_id, row) for row in token_rows.yield_per(1000)),
                key=attrgetter("seq"),
            )
            try:
                yield from merged
            except DatabaseError as error:
                raise StoreError(f"cannot read {self.where}: {error.orig}") from None

    def events_frame(
        self, run_id: str | None = None, kinds: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Rows of `events`: run_id, seq, at_ns, kind, version, body."""
        columns = [events.c[name] for name in ("seq", "at_ns", "kind", "version", "body")]
        query = select(runs.c.run_id, *columns).join(runs).order_by(runs.c.run_key, events.c.seq)
        if run_id is not None:
            query = query.where(runs.c.run_id == run_id)
        if kinds is not None:
            query = query.where(events.c.kind.in_(list(kinds)))
        return self._frame(query)

    def tokens_frame(self, run_id: str | None = None) -> pd.DataFrame:
        """Rows of `tokens`, with `run_id` for `run_key`."""
        columns = [column for column in tokens.columns if column.name != "run_key"]
        query = select(runs.c.run_id, *columns).join(runs).order_by(runs.c.run_key, tokens.c.seq)
        if run_id is not None:
            query = query.where(runs.c.run_id == run_id)
        return self._frame(query)

    def _frame(self, query: Select[Any]) -> pd.DataFrame:
        with self._engine.connect() as reader:
            return pd.read_sql_query(query, reader)


_INSERT_EVENT = insert(events)
_INSERT_TOKEN = insert(tokens)


def only_match(matches: Iterable[str], wanted: str, where: str) -> str:
    """The one id among those that begin as wanted. Raises NoSuchRunError."""
    found = sorted(matches)
    if wanted in found:
        return wanted
    if not found or not wanted:
        raise NoSuchRunError(f"{where} has no run {wanted!r}")
    if len(found) > 1:
        raise NoSuchRunError(f"{wanted!r} is the beginning of {len(found)} runs in {where}")
    return found[0]


def _prepare_connections(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        for pragma in (
            "busy_timeout=30000",
            "synchronous=NORMAL",
            "foreign_keys=ON",
            # Without it REPLACE deletes a row past the triggers that refuse deletion.
            "recursive_triggers=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")


def _of_run(query: Select[Any], table: Any, run_id: str) -> Select[Any]:
    run_key = select(runs.c.run_key).where(runs.c.run_id == literal(run_id)).scalar_subquery()
    return query.where(table.c.run_key == run_key).order_by(table.c.seq)


def _summary_row(summary: RunSummary) -> dict[str, Any]:
    return {name: getattr(summary, name) for name in SUMMARY_COLUMNS}


def _summary(row: Row[Any]) -> RunSummary:
    return RunSummary(**{name: getattr(row, name) for name in SUMMARY_COLUMNS})


def _token_row(token: TokenSampled) -> dict[str, Any]:
    row = {name: getattr(token, name) for name in TOKEN_COLUMNS}
    count = len(token.candidate_ids)
    row["version"] = token.version
    row["candidate_ids"] = struct.pack(f"<{count}i", *token.candidate_ids) if count else None
    row["candidate_logprobs"] = (
        struct.pack(f"<{count}f", *token.candidate_logprobs) if count else None
    )
    return row


def _envelope(run_id: str, row: Row[Any]) -> Envelope:
    try:
        return Envelope(run_id, row.seq, row.at_ns, decode_body(row.kind, row.version, row.body))
    except RecordingError as error:
        raise type(error)(f"run {run_id}, event {row.seq}: {error}") from None


def _token_envelope(run_id: str, row: Row[Any]) -> Envelope:
    ids, logprobs = row.candidate_ids or b"", row.candidate_logprobs or b""
    try:
        token = TokenSampled(
            **{name: getattr(row, name) for name in TOKEN_COLUMNS},
            candidate_ids=struct.unpack(f"<{len(ids) // 4}i", ids),
            candidate_logprobs=struct.unpack(f"<{len(logprobs) // 4}f", logprobs),
        )
    except (TypeError, ValueError, struct.error) as error:
        raise RecordingError(f"run {run_id}, token {row.seq}: {error}") from None
    return Envelope(run_id, row.seq, row.at_ns, token)
