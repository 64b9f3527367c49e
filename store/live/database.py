"""The live store: one append-only stream for each run, in SQLite or PostgreSQL."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from sqlalchemy import select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tokentape.recorder import Envelope, Record, Recording, RecordingError
from tokentape.recorder.clock import now_us
from tokentape.recorder.codec import decode
from tokentape.recorder.envelope import TurnCounter
from tokentape.recorder.events import TOKEN_KIND, RunStarted
from tokentape.recorder.projections import RunSummary, summarise
from tokentape.store.attachments import TABLES, Attachment, StoredFloor, StoredVerdict
from tokentape.store.errors import NoSuchRunError, StoreError
from tokentape.store.labels import new_labels
from tokentape.store.live import attachments as attachment_rows
from tokentape.store.live.connections import POOLED_POSTGRESQL, is_pooled, open_database
from tokentape.store.live.erasure import Erasure, erase_run
from tokentape.store.live.last_event import last_event_at_us
from tokentape.store.live.reader import SUMMARY_COLUMNS, DatabaseReader
from tokentape.store.live.schema import bring_to_head, check_unchanged, head
from tokentape.store.live.sqlite_access import use_wal
from tokentape.store.live.sqlite_file import OpenedFile
from tokentape.store.live.statements import Statements
from tokentape.store.live.tables import SEQ_BITS, SEQ_MASK, runs, tombstones
from tokentape.store.payloads import payload_of
from tokentape.store.source import Attachments, OpenRecording, attachments_of

_WAL_WAIT_S = 5.0
"""How long the first write waits for other programs that read a file in rollback mode."""


class DatabaseStore(DatabaseReader):
    """Recordings in a database; `open_store` returns one.

    Every event is committed when `append` returns, and so survives the death of the process. A
    durable event survives a power failure, too.
    """

    def __init__(self, url: URL, *, upgrade: bool = False, must_exist: bool = False) -> None:
        database = open_database(url)
        super().__init__(database)
        self._has_wal = False
        try:
            with database.engine.connect() as connection:
                bring_to_head(connection, database, url, upgrade=upgrade, must_exist=must_exist)
            self._revision = head()
            self._file = OpenedFile.of(url)
            self._writer = self._writing_connection()
        except DBAPIError as error:
            database.engine.dispose()
            raise StoreError(f"cannot open {self.where}: {error.orig}") from None
        except BaseException:
            database.engine.dispose()
            raise
        self._cursor = self._writer and self._writer.cursor()
        self._seen_counter = self._schema_counter() if self._writer and self._file else 0
        self._statements = Statements(self._backend.packing.placeholder)
        self._open_runs: dict[str, tuple[int, int]] = {}
        self._recorded: weakref.WeakSet[OpenRecording] = weakref.WeakSet()

    def _writing_connection(self) -> Any:
        """Return a connection to write with; None if the file can only be read."""
        if not self._database.access.is_writable:
            return None
        writer = self._database.writing_connection()
        if self._backend.name == "postgresql" and is_pooled(writer.driver_connection):
            self._backend = POOLED_POSTGRESQL
        if self._file is not None:
            # Other programs may be reading now; the first write waits for them.
            self._has_wal = not use_wal(writer.driver_connection, wait_s=0)
        return writer

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for a store in memory or on a server."""
        return None if self._file is None else self._file.path

    def at_close(self, run: OpenRecording) -> None:
        """End a run that is being recorded before the store closes."""
        self._recorded.add(run)

    def close(self) -> None:
        """End the runs that this process records into the store, and close it."""
        for run in list(self._recorded):
            run.end_quietly()
        # Not returned to the pool, which would roll back: a lost connection cannot.
        if self._writer is not None and self._writer.is_valid:
            self._writer.invalidate()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def append(
        self, envelope: Envelope, record: Record, *, durable: bool, summary: RunSummary | None
    ) -> None:
        """Store an event; see `recorder.EventLog`."""
        run_id = envelope.run_id
        refused = (
            f"run {run_id} already has event {record.seq}, or lacks the one before it: "
            "a run has one writer"
        )
        starts = isinstance(envelope.event, RunStarted)
        if not starts:
            # Before the transaction: in memory, the reader shares the writer's connection, and a
            # pooler may have no other session while many wait in a transaction for one to read.
            self._open_run(run_id)
        if record.kind == TOKEN_KIND and not durable:
            alone = self._transaction if self._backend.begins_always else self._store_errors
            with alone(run_id, refused):
                self._append(run_id, record)
            return
        with self._transaction(run_id, refused, durable=durable):
            if starts and summary is not None:
                self._cursor.execute(self._statements.select_tombstone, (run_id,))
                if self._cursor.fetchone() is not None:
                    raise self._erased(run_id)
                self._open_runs[run_id] = (self._insert_run(summary), summary.started_at_us)
            self._append(run_id, record)
            if not starts and summary is not None:
                self._update_run(self._open_run(run_id)[0], summary)

    def _append(self, run_id: str, record: Record) -> None:
        run_key, started_at_us = self._open_run(run_id)
        self._insert(run_key, started_at_us, record)

    @contextmanager
    def _store_errors(self, run_id: str, refused: str) -> Iterator[None]:
        """Write alone, and turn the driver's errors into StoreError.

        Other threads may record other runs into this store: they wait. `refused` is the text for a
        broken rule.
        """
        with self._lock:
            self._check_writable()
            try:
                yield
            except BaseException as error:
                self._open_runs.pop(run_id, None)
                if isinstance(error, self._driver.IntegrityError):
                    raise self._refusal(run_id, refused) from None
                if isinstance(error, self._driver.Error):
                    raise StoreError(f"cannot write to {self.where}: {first_line(error)}") from None
                raise

    def _refusal(self, run_id: str, refused: str) -> StoreError:
        """Return why the database refused a row: an erased run has no last event to continue."""
        try:
            if run_id and self.summary(run_id) is None:
                self._check_tombstones(run_id)
                return NoSuchRunError(f"{self.where} has no run {run_id}")
        except StoreError as error:
            return error
        return StoreError(refused)

    def _check_schema_unchanged(self) -> None:
        """Raise StoreError if a file was upgraded, or its schema changed, since it was opened.

        SQLite counts the changes of a schema. Those of other programs' tables do no harm.
        """
        counter = self._schema_counter()
        if counter != self._seen_counter:
            with self._engine.connect() as reader:
                check_unchanged(reader, self.where, self._revision)
            self._seen_counter = counter

    def _schema_counter(self) -> int:
        driver = self._writer.driver_connection
        return int(driver.execute("PRAGMA schema_version").fetchone()[0])

    def _check_writable(self) -> None:
        """Raise StoreError if nothing can be written, or only while no other program reads."""
        if self._writer is None:
            self._database.check_writable()
        if self._has_wal or self._file is None:
            return
        fault = use_wal(self._writer.driver_connection, wait_s=_WAL_WAIT_S)
        if fault:
            raise StoreError(
                f"cannot write to {self.where}: {fault}. It is in rollback mode, in which a reader "
                "stops a recorder, and another program is using it: close that program"
            )
        self._has_wal = True

    @contextmanager
    def _transaction(self, run_id: str, refused: str, *, durable: bool = False) -> Iterator[None]:
        """Commit all that the block writes, or nothing. Raise as `_store_errors` does."""
        backend = self._backend
        if durable and self._file is not None:
            self._file.check_in_place()
        with self._store_errors(run_id, refused):
            try:
                for statement in backend.begin_durable if durable else (backend.begin,):
                    self._cursor.execute(statement)
                if durable and self._file is not None:
                    self._check_schema_unchanged()
                yield
                self._cursor.execute("COMMIT")
            except BaseException:
                # On a lost connection this fails, and the database rolls back.
                with suppress(self._driver.Error):
                    self._cursor.execute("ROLLBACK")
                raise
            finally:
                if durable and backend.end_durable is not None:
                    self._cursor.execute(backend.end_durable)

    def _insert(self, run_key: int, started_at_us: int, record: Record) -> None:
        if not 0 <= record.seq <= SEQ_MASK:
            raise StoreError(f"a run can have at most {SEQ_MASK + 1:,} events in a database")
        event_key = run_key << SEQ_BITS | record.seq
        after_us = record.at_us - started_at_us
        if isinstance(record.body, str):
            row = (record.turn, record.kind, record.version, record.body, record.seal)
            self._cursor.execute(self._statements.insert_event, (event_key, after_us, *row))
        else:
            packed = self._backend.packing.row(record.version, record.body)
            self._cursor.execute(self._statements.insert_token, (event_key, after_us, *packed))

    def _insert_run(self, summary: RunSummary) -> int:
        values = [getattr(summary, name) for name in SUMMARY_COLUMNS]
        self._cursor.execute(self._statements.insert_run, values)
        (run_key,) = self._cursor.fetchone()
        return int(run_key)

    def _open_run(self, run_id: str) -> tuple[int, int]:
        """Return the key and the start of a run. Raise NoSuchRunError."""
        if run_id not in self._open_runs:
            query = select(runs).where(runs.c.run_id == run_id)
            row = self._query(lambda reader: reader.execute(query).one_or_none())
            if row is None:
                self._check_tombstones(run_id)
                raise NoSuchRunError(f"{self.where} has no run {run_id}")
            self._open_runs[run_id] = (row.run_key, row.started_at_us)
        return self._open_runs[run_id]

    def last_event_at_us(self, run_id: str) -> int:
        """See `tokentape.store.source.Source`."""
        return self._query(lambda reader: last_event_at_us(reader, run_id))

    def put_blob(self, sha256: str, payload: bytes) -> None:
        with self._store_errors("", f"cannot keep blob {sha256}"):
            self._cursor.execute(self._statements.insert_blob, (sha256, payload))

    def add_verdict(self, attachment: StoredVerdict) -> None:
        """Store the result of a replay. An equal verdict that is stored already changes nothing.

        Several processes may do so at once, also while the run is being recorded. Raise
        NoSuchRunError for an unknown run, StoreError if the database cannot be written to.
        """
        self.add_attachment(attachment)

    def add_floor(self, attachment: StoredFloor) -> None:
        """Store a noise floor of a run. Raise as `add_verdict` does."""
        self.add_attachment(attachment)

    def tag(self, run_id: str, *tags: str) -> None:
        """Add tags to the run that `recording` finds; one that it has already changes nothing.

        A tag is one word of at most 80 printable characters, without a comma. Raise StoreError for
        another, NoSuchRunError for an unknown run.
        """
        self._label(run_id, "tag", tags)

    def untag(self, run_id: str, *tags: str) -> None:
        """Remove tags from a run. Raise StoreError for one that it does not have."""
        self._label(run_id, "untag", tags)

    def note(self, run_id: str, text: str) -> None:
        """Replace the note of a run; an empty text removes it. Raise StoreError as `tag` does."""
        self._label(run_id, "note", (text,))

    def _label(self, run_id: str, label: str, texts: Sequence[str]) -> None:
        full_id = self.recording(run_id).run_id
        for each in new_labels(full_id, self.labels(full_id), label, texts):
            self.add_attachment(each)

    def add_attachment(self, attachment: Attachment) -> None:
        """Store an annotation of a run. Raise as `add_verdict` does."""
        run_id = attachment.run_id
        query = select(runs.c.run_key).where(runs.c.run_id == run_id)
        run_key = self._query(lambda reader: reader.execute(query).scalar_one_or_none())
        if run_key is None:
            self._check_tombstones(run_id)
            raise NoSuchRunError(f"{self.where} has no run {run_id}")
        with self._transaction(run_id, f"run {run_id} has just been erased", durable=True):
            self._insert_attachment(run_key, attachment)

    def _insert_attachment(self, run_key: int, attachment: Attachment) -> None:
        statement = self._statements.insert_attachment[TABLES[type(attachment)]]
        self._cursor.execute(statement, attachment_rows.inserted_values(run_key, attachment))

    def import_run(
        self, recording: Recording, attached: Attachments, *, events_there: int = 0
    ) -> None:
        """Store the records of a run unchanged, and its attachments, in one transaction.

        The store already has the first `events_there` of the records. Raise StoreError if it has
        another number of them, or if it erased the run.
        """
        run_id = recording.run_id
        if not events_there and self.summary(run_id) is not None:
            raise StoreError(f"{self.where} already has run {run_id}")
        self.check_not_erased(run_id)
        run_key = self._open_run(run_id)[0] if events_there else None
        summary, turns = None, TurnCounter()
        refused = f"another process is writing to run {run_id}: nothing of it was added"
        with self._transaction(run_id, refused, durable=True):
            for record in recording.records():
                envelope = decode(run_id, record)
                turn = turns.turn_of(envelope.event)
                if turn != record.turn:
                    raise RecordingError(
                        f"run {run_id}: event {record.seq} is filed under turn {record.turn}, "
                        f"not {turn}"
                    )
                summary = summarise(summary, envelope)
                if summary is None:
                    raise RecordingError(f"run {run_id} does not begin with RunStarted")
                if run_key is None:
                    run_key = self._insert_run(summary)
                if record.seq < events_there:
                    continue
                self._insert(run_key, summary.started_at_us, record)
                sha256 = payload_of(record)
                if sha256:
                    payload = attached.blob(sha256)
                    self._cursor.execute(self._statements.insert_blob, (sha256, payload))
            if summary is None:
                raise RecordingError(f"run {run_id} has no events")
            assert run_key is not None
            self._update_run(run_key, summary)
            for attachment in attachments_of(attached, run_id):
                self._insert_attachment(run_key, attachment)
        self._open_runs.pop(run_id, None)

    def erase(
        self, run_id: str, *, reason: str = "", clock_us: Callable[[], int] = now_us
    ) -> Erasure:
        """Delete a run irrevocably; see `tokentape.store.live.erasure.erase_run`."""
        self._check_writable()
        full_id = self.recording(run_id).run_id
        self._open_runs.pop(full_id, None)
        with self._lock:
            return erase_run(self._engine, full_id, reason=reason, at_us=clock_us())

    def _update_run(self, run_key: int, summary: RunSummary) -> None:
        values = [getattr(summary, name) for name in SUMMARY_COLUMNS]
        self._cursor.execute(self._statements.update_run, (*values, run_key))

    def check_not_erased(self, run_id: str) -> None:
        """Raise StoreError for a run that was erased from this store."""
        query = select(tombstones.c.run_id).where(tombstones.c.run_id == run_id)
        if self._query(lambda reader: reader.execute(query).first()) is not None:
            raise self._erased(run_id)

    def erased_run_ids(self) -> frozenset[str]:
        """Return the ids of all runs that were erased from this store."""
        query = select(tombstones.c.run_id)
        return frozenset(self._query(lambda reader: reader.execute(query).scalars().all()))

    def _erased(self, run_id: str) -> StoreError:
        return StoreError(f"run {run_id} was erased from {self.where} and cannot be added again")


def first_line(error: Any) -> str:
    """Return the first line of an error: PostgreSQL adds more, with the values of the row."""
    return str(error).strip().partition("\n")[0]
