"""A live store that also seals its runs into a folder while they are recorded."""

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tokentape.recorder import Envelope, EventLog, Record, Recording
from tokentape.recorder.escapes import visible
from tokentape.recorder.events import TurnFinished
from tokentape.recorder.projections import RunSummary
from tokentape.recorder.short_forms import short_repr
from tokentape.store.objects.urls import file_location
from tokentape.store.sealed.sealing import RunSealer
from tokentape.store.source import Attachments, OpenRecording


class LiveStore(EventLog, Attachments, Protocol):
    """An event log that can also be read."""

    def recording(self, run_id: str) -> Recording:
        """Return the run with that id."""

    def at_close(self, run: OpenRecording) -> None:
        """End a run that is being recorded before the store closes."""

    def close(self) -> None:
        """End the runs that are being recorded, and close the store."""


class SealingLog:
    """An event log that writes to a store and seals the run into a folder after each turn.

    Sealing is part of `append`, so the end of a turn takes longer. If sealing fails, the events are
    in the store all the same: a warning and `fault` say why, and the next seal includes them.

    Example:
        >>> import tokentape as tt
        >>> log = tt.SealingLog(store, tmp_path / "sealed")
        >>> with tt.Investigation(lm, store=log, name="probe", system_prompt="Be brief.") as run:
        ...     reply = run.chat("Hello", max_new_tokens=4)
        >>> tt.open_store(tmp_path / "sealed").recording(run.run_id).run_id == run.run_id
        True
    """

    def __init__(self, store: LiveStore, folder: Path | str) -> None:
        self.fault = ""
        self._store = store
        self._folder = file_location(folder)
        self._unsealed: dict[str, list[Record]] = {}
        self._sealers: dict[str, RunSealer] = {}

    def __repr__(self) -> str:
        return short_repr(self, f"of {self._store!r}", f"into {self._folder}")

    def append(
        self, envelope: Envelope, record: Record, *, durable: bool, summary: RunSummary | None
    ) -> None:
        """Store an event, then seal the run if it carries a seal; see `recorder.EventLog`."""
        self._store.append(envelope, record, durable=durable, summary=summary)
        self._unsealed.setdefault(envelope.run_id, []).append(record)
        if record.seal is not None:
            self._seal(envelope.run_id, self._unsealed.pop(envelope.run_id))

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self._store.put_blob(sha256, payload)

    def at_close(self, run: OpenRecording) -> None:
        """End a run that is being recorded before the store closes; see `DatabaseStore`."""
        self._store.at_close(run)

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _seal(self, run_id: str, tail: list[Record]) -> None:
        try:
            # A run that has ended needs no sealer any more.
            sealer = self._sealers.pop(run_id, None) or self._sealer(run_id)
            if tail[-1].kind == TurnFinished.__name__:
                self._sealers[run_id] = sealer
            sealer.seal(tail)
            self.fault = ""
        except Exception as error:  # The event is stored: no failure here may end the run.
            self.fault = f"run {run_id} is recorded, but was not sealed: {error}"
            self._warn()

    def _sealer(self, run_id: str) -> RunSealer:
        return RunSealer(self._store.recording(run_id), self._store, self._folder)

    def _warn(self) -> None:
        # With warnings as errors, this one would end the recording.
        with suppress(RuntimeWarning):
            warnings.warn(visible(self.fault), RuntimeWarning, stacklevel=2)
