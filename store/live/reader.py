"""Reads of a live store: runs, records, blobs, and Arrow tables of many rows."""

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, Unpack

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, Row, Select, Table, select
from sqlalchemy.exc import DBAPIError

from tokentape.recorder import Record, Recording, RecordingError
from tokentape.recorder.projections import RunSummary
from tokentape.recorder.record import RecordFilter, SampledIds
from tokentape.recorder.short_forms import html_or_fault, short_repr
from tokentape.store.arrow import EVENTS, TOKENS
from tokentape.store.attachments import K, StoredFloor, StoredLabel, StoredVerdict
from tokentape.store.errors import NoSuchRunError, StoreError
from tokentape.store.labels import Labels, fold_labels
from tokentape.store.live import attachments as attachment_rows
from tokentape.store.live.connections import Database
from tokentape.store.live.integrity_faults import key_faults, page_faults
from tokentape.store.live.records import select_records, select_sampled_ids
from tokentape.store.live.row_batches import (
    RunPositions,
    batches,
    envelope_columns,
    integer_batches,
    joined,
)
from tokentape.store.live.schema import schema_faults_now
from tokentape.store.live.sqlite_access import Access
from tokentape.store.live.sqlite_file import OpenedFile
from tokentape.store.live.tables import blobs, events, runs, tokens, tombstones
from tokentape.store.location import is_in_memory
from tokentape.store.run_conditions import RunConditions
from tokentape.store.run_names import find_run_id
from tokentape.store.run_search import select_runs
from tokentape.store.runs_table import runs_html
from tokentape.store.source import Selection

SUMMARY_COLUMNS = tuple(column.name for column in runs.columns if column.name != "run_key")
_STORED = {
    "logprob": "logprob_f32",
    "logprob_processed": "logprob_processed_f32",
    "entropy": "entropy_f16",
    "top_gap": "top_gap_f16",
    "top_logprobs": "top_logprobs_f16",
}
"""Columns of tokens whose name in the database differs."""

_Result = TypeVar("_Result")


class DatabaseReader:
    """The reading half of a live store. Any number of processes may read at once."""

    def __init__(self, database: Database) -> None:
        self.where = database.where
        self._database = database
        self._engine = database.engine
        self._driver: Any = database.engine.dialect.loaded_dbapi
        self._backend = database.backend
        self._file: OpenedFile | None = None
        self._is_in_memory = is_in_memory(database.engine.url)
        self._lock = threading.RLock()
        """Held by a thread that writes, and, in memory, by one that reads: all threads share the
        only connection, and the end of a read rolls back what is open on it."""

    def blob(self, sha256: str) -> bytes:
        """See `tokentape.store.source.Attachments`."""
        query = select(blobs.c.payload).where(blobs.c.sha256 == sha256)
        payload = self._query(lambda reader: reader.execute(query).scalar_one_or_none())
        if payload is None:
            raise StoreError(f"{self.where} has no blob {sha256}")
        if not isinstance(payload, bytes):
            raise StoreError(f"blob {sha256} in {self.where} is damaged: it is not bytes")
        return payload

    def __repr__(self) -> str:
        return short_repr(self, self.where)

    def _repr_html_(self) -> str:
        return html_or_fault(self, lambda: runs_html(self.where, self.summaries()))

    def summaries(self, **where: Unpack[RunConditions]) -> list[RunSummary]:
        """See `tokentape.store.source.Source`."""
        query = select(runs).order_by(runs.c.started_at_us, runs.c.run_id)
        rows = self._query(lambda reader: reader.execute(query).all())
        found = [summary_of(row) for row in rows]
        return select_runs(self, found, where) if where else found

    def summary(self, run_id: str) -> RunSummary | None:
        """See `tokentape.store.source.Source`."""
        query = select(runs).where(runs.c.run_id == run_id)
        row = self._query(lambda reader: reader.execute(query).one_or_none())
        return None if row is None else summary_of(row)

    def recording(self, run_id: str) -> Recording:
        """See `tokentape.store.source.Source`."""
        query = select(runs.c.run_id).where(runs.c.run_id.startswith(run_id, autoescape=True))
        matches = self._query(lambda reader: reader.execute(query).scalars().all())
        try:
            full_id = find_run_id(run_id, matches, self.summaries, self.where)
        except NoSuchRunError:
            if not matches:
                self._check_tombstones(run_id)
            raise
        return Recording(
            full_id,
            lambda: self._records(full_id, RecordFilter()),
            self.where,
            self.blob,
            self.recording,
            partial(self._records, full_id),
            partial(self._sampled_ids, full_id),
            lambda: self.tokens_table(Selection(run_ids=(full_id,), columns=tuple(TOKENS.names))),
        )

    def _check_tombstones(self, run_id: str) -> None:
        query = select(tombstones).where(tombstones.c.run_id.startswith(run_id, autoescape=True))
        erased = self._query(lambda reader: reader.execute(query).first())
        if erased is not None and run_id:
            try:
                when = np.datetime64(erased.erased_at_us, "us").astype("datetime64[s]")
            except (TypeError, ValueError, OverflowError):
                raise StoreError(f"the tombstone of run {run_id} is damaged") from None
            reason = f": {erased.reason}" if erased.reason else ""
            raise NoSuchRunError(f"run {erased.run_id} was erased on {when}Z{reason}")

    def _records(self, run_id: str, chosen: RecordFilter) -> Iterator[Record]:
        try:
            with self._snapshot() as reader:
                run = self._run(reader, run_id)
                records = select_records(reader, run, self._backend.packing, chosen)
                if not self._is_in_memory:
                    yield from records
                    return
                # The caller may stop taking records: the lock must not wait for that.
                read = list(records)
            yield from read
        except (TypeError, struct.error) as error:
            raise RecordingError(f"run {run_id} is damaged: {error}") from None

    def _sampled_ids(self, run_id: str, after_seq: int, last_seq: int | None) -> SampledIds:
        with self._snapshot() as reader:
            run_key = self._run(reader, run_id).run_key
            return select_sampled_ids(reader, run_key, after_seq, last_seq)

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        """Yield a connection whose queries all see the database at the same moment."""
        with self._reading() as reader:
            # In memory, the writer uses the same connection, and no other process exists.
            if not self._is_in_memory:
                reader.exec_driver_sql(self._backend.begin_reading)
            yield reader

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Yield a connection. Turn the database's errors into StoreError."""
        alone = self._lock if self._is_in_memory else nullcontext()
        try:
            with alone, self._engine.connect() as reader, self._read_only(reader):
                self._check_unwritten()
                yield reader
                self._check_unwritten()
        except DBAPIError as error:
            raise self._read_error(error) from None
        except self._driver.Error as error:
            raise StoreError(f"cannot read {self.where}: {error}") from None

    def _read_error(self, error: DBAPIError) -> StoreError:
        return StoreError(f"cannot read {self.where}: {error.orig}")

    @contextmanager
    def _read_only(self, reader: Connection) -> Iterator[None]:
        """Have SQLite refuse every write: a pooled connection of a file, not the writer's."""
        if self._file is None:
            yield
            return
        driver: Any = reader.connection.driver_connection
        driver.execute("PRAGMA query_only=ON")
        try:
            yield
        finally:
            driver.execute("PRAGMA query_only=OFF")

    def _check_unwritten(self) -> None:
        """Raise StoreError if a file that is read without a lock was written to."""
        if self._file is not None and self._database.access is Access.IMMUTABLE:
            self._file.check_unwritten()

    def _run(self, reader: Connection, run_id: str) -> Row[Any]:
        row = reader.execute(select(runs).where(runs.c.run_id == run_id)).one_or_none()
        if row is None:
            raise NoSuchRunError(f"{self.where} has no run {run_id}")
        return row

    def verify_files(self, run_id: str) -> list[str]:
        """See `tokentape.store.source.Source`. Only SQLite can check its pages.

        The first kind of fault ends the search: on damaged pages, a later one might not end.
        """
        checks = [schema_faults_now, page_faults, key_faults]
        if self._backend.name != "sqlite":
            checks.remove(page_faults)
        faults = next(filter(None, map(self._query, checks)), [])
        return [f"{self.where}: {fault}" for fault in faults]

    def verdicts(self, run_id: str) -> list[StoredVerdict]:
        """See `tokentape.store.source.Attachments`."""
        return self._attachments(StoredVerdict, run_id)

    def floors(self, run_id: str) -> list[StoredFloor]:
        """See `tokentape.store.source.Attachments`."""
        return self._attachments(StoredFloor, run_id)

    def labels(self, run_id: str) -> list[StoredLabel]:
        """See `tokentape.store.source.Attachments`."""
        return self._attachments(StoredLabel, run_id)

    def labels_by_run(self) -> dict[str, Labels]:
        """See `tokentape.store.source.Source`."""
        query = attachment_rows.labels_query()
        return fold_labels(self._query(lambda reader: reader.execute(query).all()))

    def _attachments(self, kind: type[K], run_id: str) -> list[K]:
        query = attachment_rows.rows_query(kind, run_id)
        rows = self._query(lambda reader: reader.execute(query).all())
        return [attachment_rows.attachment_of_row(kind, run_id, row, self.where) for row in rows]

    def verdicts_table(self, selection: Selection) -> pa.Table:
        """See `tokentape.store.source.Source`."""
        chosen, names = selection.run_ids, attachment_rows.FIGURES
        if selection.columns is not None:
            names = [name for name in names if name in selection.columns]
        rows = self._query(
            lambda reader: reader.execute(attachment_rows.figures_query(names)).all()
        )
        wanted = [row for row in rows if chosen is None or row.run_id in chosen]
        try:
            return attachment_rows.figures_table(names, wanted)
        except (TypeError, ValueError, OverflowError) as error:
            raise StoreError(f"verdicts in {self.where} are damaged: {error}") from None

    def events_table(self, selection: Selection) -> pa.Table:
        """See `tokentape.store.source.Source`."""
        names = [name for name in EVENTS.names if name not in _ENVELOPE]
        if selection.columns is not None:
            names = [name for name in names if name in selection.columns]
        query = select(events.c.event_key, events.c.after_us, *(events.c[name] for name in names))
        if selection.kinds is not None:
            query = query.where(events.c.kind.in_(selection.kinds))

        def columns(values: list[Any]) -> dict[str, pa.Array]:
            return {
                name: pa.array(each, EVENTS.field(name).type)
                for name, each in zip(names, values, strict=True)
            }

        schema = pa.schema([field for field in EVENTS if field.name in (*_ENVELOPE, *names)])
        return self._table(schema, events, query, selection, columns)

    def tokens_table(self, selection: Selection) -> pa.Table:
        """See `tokentape.store.source.Source`."""
        wanted = _token_columns(selection.columns)
        stored = [_STORED.get(name, name) for name in wanted]
        query = select(tokens.c.event_key, tokens.c.after_us, *(tokens.c[name] for name in stored))
        packing = self._backend.packing

        def columns(read: list[Any]) -> dict[str, pa.Array]:
            values = dict(zip(stored, read, strict=True))
            found = {}
            if "top_ids" in values:
                ids, logprobs = values.pop("top_ids"), values.pop("top_logprobs_f16")
                lists = packing.top_lists(ids, logprobs)
                found = dict(zip(("top_ids", "top_logprobs"), lists, strict=True))
            for name in wanted:
                if name not in found:
                    stored_name = _STORED.get(name, name)
                    found[name] = packing.numbers(stored_name, values[stored_name])
            return found

        schema = pa.schema([field for field in TOKENS if field.name in (*_ENVELOPE, *wanted)])
        return self._table(schema, tokens, query, selection, columns)

    def _table(
        self,
        schema: pa.Schema,
        table: Table,
        query: Select[Any],
        selection: Selection,
        columns: Callable[[list[Any]], dict[str, pa.Array]],
    ) -> pa.Table:
        """Return rows of a stream as a table, ordered by run and `seq`.

        The first columns of `query` are `event_key` and `after_us`. `columns` converts the rest.
        """
        if selection.turns is not None:
            query = query.where(table.c.turn.in_(selection.turns))
        query = query.order_by(table.c.event_key)
        packed = self._backend.name == "sqlite" and table is tokens
        integers = packed and tokens.c.top_ids not in set(query.selected_columns)
        in_batches = integer_batches if integers else batches

        def read(reader: Connection) -> pa.Table:
            chosen = self._chosen_runs(reader, selection.run_ids)
            numbers = RunPositions([run.run_key for run in chosen])
            starts = np.array([run.started_at_us for run in chosen], np.int64)
            parts = []
            for lowest, highest in numbers.key_ranges(selection):
                within = table.c.event_key.between(lowest, highest)
                cursor: Any = reader.execute(query.where(within)).cursor
                for keys, after_us, *values in in_batches(cursor):
                    parts.append(
                        envelope_columns(keys, after_us, numbers, starts) | columns(values)
                    )
            return joined(parts, [run.run_id for run in chosen], schema)

        try:
            with self._snapshot() as reader:
                return read(reader)
        except (TypeError, ValueError, OverflowError, struct.error) as error:
            raise RecordingError(f"{table.name} in {self.where} is damaged: {error}") from None

    def _chosen_runs(
        self, reader: Connection, run_ids: tuple[str, ...] | None
    ) -> list[Row[int, str, int]]:
        query = select(runs.c.run_key, runs.c.run_id, runs.c.started_at_us).order_by(runs.c.run_id)
        chosen = None if run_ids is None else set(run_ids)
        found = reader.execute(query).all()
        return [row for row in found if chosen is None or row.run_id in chosen]

    def _query(self, read: Callable[[Connection], _Result]) -> _Result:
        try:
            with self._reading() as reader:
                return read(reader)
        except UnicodeEncodeError as error:
            # An id from an argument or a forged event; no text of a database has one.
            raise StoreError(f"{self.where} has no {error.object!r}: it is not text") from None


_ENVELOPE = ("run_id", "seq", "at")


def summary_of(row: Row[Any]) -> RunSummary:
    return RunSummary(**{name: getattr(row, name) for name in SUMMARY_COLUMNS})


def _token_columns(requested: tuple[str, ...] | None) -> list[str]:
    """Return the columns to read: both columns of the top k, or neither."""
    top_columns = ("top_ids", "top_logprobs")
    names = [field.name for field in TOKENS if field.name not in _ENVELOPE]
    if requested is None:
        return [name for name in names if name not in top_columns]
    both = any(name in requested for name in top_columns)
    return [name for name in names if name in requested or (both and name in top_columns)]
