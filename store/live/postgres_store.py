"""A live store on a PostgreSQL server, which may be restarted while runs are recorded."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError

from tokentape.recorder import Envelope, Record, Recording
from tokentape.recorder.projections import RunSummary
from tokentape.recorder.record import RecordFilter
from tokentape.store.attachments import Attachment
from tokentape.store.errors import LostConnectionError, StoreError
from tokentape.store.live.connections import POOLED_POSTGRESQL
from tokentape.store.live.database import DatabaseStore, first_line
from tokentape.store.live.records import select_records
from tokentape.store.live.server_wait import ServerWait, wait_limit_s
from tokentape.store.live.tables import runs
from tokentape.store.source import Attachments

_UNSYNCED_MAX = 500
"""After so many writes that a crash of the server may take back, one waits for the disk."""
_IDENTITY = ("turn", "step", "position", "token_id", "duration_us", "top_ids")
"""The fields of a token that tell two of them apart, without floats that a store may round."""
_SESSION = (
    "SELECT pid, backend_start, pg_is_in_recovery() FROM pg_stat_activity "
    "WHERE pid = pg_backend_pid()"
)
_END_SESSION = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s"
)


@dataclass(frozen=True, slots=True)
class _EventWrite:
    """An event as `append` was given it."""

    envelope: Envelope
    record: Record
    durable: bool
    summary: RunSummary | None

    @property
    def run_id(self) -> str:
        return self.envelope.run_id


@dataclass(frozen=True, slots=True)
class _BlobWrite:
    """A payload. Writing it twice changes nothing."""

    sha256: str
    payload: bytes
    durable: bool = False


@dataclass(frozen=True, slots=True)
class _AttachmentWrite:
    """An annotation of a run. Writing it twice changes nothing."""

    attachment: Attachment
    durable: bool = True


_Write = _EventWrite | _BlobWrite | _AttachmentWrite


class PostgresStore(DatabaseStore):
    """Recordings on a PostgreSQL server; `open_store` returns one.

    If the connection is lost, a write connects again, waits for the server if it must, and asks it
    which events it holds: an event whose commit had an unknown outcome is written exactly once.
    Events that the server confirmed before they were on its disk are kept in memory until they
    are, and are written again if a crash of the server took them back.
    """

    def __init__(self, url: URL, *, upgrade: bool = False, must_exist: bool = False) -> None:
        self._wait_s = wait_limit_s()
        self._session: tuple[Any, ...] = ()
        self._unsynced: list[_Write] = []
        self._has_given_up = False
        """Whether the last wait ended without the server: the next write does not wait again."""
        super().__init__(url, upgrade=upgrade, must_exist=must_exist)

    def append(
        self, envelope: Envelope, record: Record, *, durable: bool, summary: RunSummary | None
    ) -> None:
        """Store an event; see `recorder.EventLog`."""
        self._write(_EventWrite(envelope, record, durable, summary))

    def put_blob(self, sha256: str, payload: bytes) -> None:
        """Store a payload; see `recorder.EventLog`."""
        self._write(_BlobWrite(sha256, payload))

    def add_attachment(self, attachment: Attachment) -> None:
        """Store an annotation of a run. Raise as `add_verdict` does."""
        self._write(_AttachmentWrite(attachment))

    def import_run(
        self, recording: Recording, attached: Attachments, *, events_there: int = 0
    ) -> None:
        """Store the records of a run; see `DatabaseStore.import_run`.

        It is not repeated if the connection is lost: nothing of the run was added then, or all.
        """
        with self._lock:
            if self._is_closed() or not self._answers():
                self._recover((), "the connection was lost")
        super().import_run(recording, attached, events_there=events_there)

    def _write(self, write: _Write) -> None:
        with self._lock:
            if isinstance(write, _EventWrite) and len(self._unsynced) >= _UNSYNCED_MAX:
                write = replace(write, durable=True)
            try:
                self._write_once(write)
            except StoreError as error:
                if not (self._is_lost(error) or self._may_be_behind()):
                    raise
                self._recover((write,), str(error))
            # A commit that waits for the disk takes all earlier ones there, of any session.
            if write.durable:
                self._unsynced.clear()
            else:
                self._unsynced.append(write)

    def _write_once(self, write: _Write) -> None:
        match write:
            case _EventWrite(envelope, record, durable, summary):
                super().append(envelope, record, durable=durable, summary=summary)
            case _BlobWrite(sha256, payload):
                super().put_blob(sha256, payload)
            case _AttachmentWrite(attachment):
                super().add_attachment(attachment)

    def _read_error(self, error: DBAPIError) -> StoreError:
        is_lost = error.connection_invalidated or isinstance(error, OperationalError)
        kind = LostConnectionError if is_lost else StoreError
        return kind(f"cannot read {self.where}: {first_line(error.orig)}")

    def _is_lost(self, error: StoreError) -> bool:
        """Return whether an error came of a lost connection: the write can be tried again."""
        return isinstance(error, LostConnectionError) or self._is_closed()

    def _may_be_behind(self) -> bool:
        """Return whether a crash of the server may have taken back what this connection wrote.

        A pooler keeps the connection of a client that is between two transactions.
        """
        return self._backend is POOLED_POSTGRESQL and bool(self._unsynced)

    def _is_closed(self) -> bool:
        return not self._writer.is_valid or bool(self._writer.driver_connection.closed)

    def _answers(self) -> bool:
        """Return whether the server answers on the connection."""
        with suppress(self._driver.Error):
            self._cursor.execute("SELECT 1")
            return True
        return False

    def _recover(self, writes: tuple[_Write, ...], reason: str) -> None:
        """Connect again, and write all that the server does not hold; wait for it if need be.

        Raise StoreError if it does not come back in time, or refuses a write.
        """
        limit_s = 0 if self._has_given_up else self._wait_s
        wait = ServerWait(self.where, limit_s)
        # Also if an interrupt ends the wait: the end of the run must not wait once more.
        self._has_given_up = True
        for _ in wait.attempts():
            try:
                self._reconnect()
                written = self._settle(writes)
            except DBAPIError as error:
                reason = first_line(error.orig)
            except self._driver.Error as error:
                reason = first_line(error)
            except StoreError as error:
                if not self._is_lost(error):
                    self._has_given_up = False
                    raise
                reason = str(error)
            else:
                self._has_given_up = False
                wait.ended(written)
                return
            wait.failed(reason)
        waited = f" within {limit_s} s" if limit_s else ""
        raise StoreError(f"cannot write to {self.where}: it was not reachable{waited}: {reason}")

    def _reconnect(self) -> None:
        """Replace the connection, and end the server's session of the old one.

        That session may still be about to commit. Raise an error of the driver or of SQLAlchemy.
        """
        if self._writer.is_valid:
            self._writer.invalidate()
        self._open_runs.clear()
        lost = self._session
        self._writer = self._writing_connection()
        self._cursor = self._writer.cursor()
        if lost and self._backend is not POOLED_POSTGRESQL:
            # A role that may not do so leaves that to the server.
            with suppress(self._driver.errors.InsufficientPrivilege):
                self._cursor.execute(_END_SESSION, lost)

    def _writing_connection(self) -> Any:
        writer = super()._writing_connection()
        try:
            row = writer.driver_connection.execute(_SESSION).fetchone()
            # None, of a pooler that changed the session within the statement.
            *session, is_standby = row or (False,)
            if is_standby:
                raise self._driver.OperationalError("the server is a standby that is only read")
        except BaseException:
            writer.invalidate()
            raise
        self._session = tuple(session)
        return writer

    def _settle(self, writes: Iterable[_Write]) -> int:
        """Write what the server does not hold of the unsynced writes and of these.

        Return how many events it lacked. Raise StoreError for one that it refuses.
        """
        writes = tuple(writes)
        needed = {each.run_id for each in writes if isinstance(each, _EventWrite)}
        held: dict[str, Mapping[int, Record]] = {}
        refused: set[str] = set()
        written = 0
        for each in (*self._unsynced, *writes):
            if not isinstance(each, _EventWrite):
                self._write_once(each)
                continue
            if each.run_id in refused:
                continue
            if each.run_id not in held:
                held[each.run_id] = self._held(each.run_id, each.record.seq)
            try:
                written += self._write_missing(each, held[each.run_id])
            except StoreError as error:
                # A run that another process erased or continued is no concern of the others.
                if each.run_id in needed or self._is_lost(error):
                    raise
                refused.add(each.run_id)
        return written

    def _write_missing(self, write: _EventWrite, held: Mapping[int, Record]) -> bool:
        """Write an event unless the server holds it; return whether it did not."""
        seq = write.record.seq
        if seq not in held:
            try:
                self._write_once(write)
                return True
            except StoreError as error:
                # The session of the lost connection may have committed it a moment ago.
                if self._is_lost(error):
                    raise
                held = self._held(write.run_id, max(seq - 1, 0))
                if held and seq not in held:
                    raise
                if not held:
                    raise self._without_durable(write) from None
        if not _is_same(write.record, held[seq]):
            raise StoreError(
                f"run {write.run_id} has another event {seq} in {self.where}: a run has one writer"
            )
        return False

    def _without_durable(self, write: _EventWrite) -> StoreError:
        """Return the error for a server that lacks what it confirmed as durable, or erased it."""
        try:
            self.check_not_erased(write.run_id)
        except StoreError as error:
            return error
        return StoreError(
            f"{self.where} lacks event {write.record.seq - 1} of run {write.run_id}, which it had "
            "confirmed as durable: it was restored from an older state, or is another server"
        )

    def _held(self, run_id: str, first_seq: int) -> Mapping[int, Record]:
        """Return the records of a run from a `seq` on that the server holds, by their `seq`.

        Raise an error of SQLAlchemy if it cannot be reached.
        """
        with self._engine.connect() as reader:
            run = reader.execute(select(runs).where(runs.c.run_id == run_id)).one_or_none()
            if run is None:
                return {}
            chosen = RecordFilter(after_seq=first_seq - 1)
            found = select_records(reader, run, self._backend.packing, chosen)
            return {each.seq: each for each in found}


def _is_same(mine: Record, theirs: Record) -> bool:
    """Return whether two records of one `seq` are the same event."""

    def identity(record: Record) -> tuple[object, ...]:
        body = record.body
        fields = body if isinstance(body, str) else tuple(body[name] for name in _IDENTITY)
        return (record.at_us, record.kind, record.version, record.turn, record.seal, fields)

    return identity(mine) == identity(theirs)
