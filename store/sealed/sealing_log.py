"""A live store whose runs are sealed into a folder while they go on."""

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tokentape.recorder import Envelope, EventLog, Record, Recording
from tokentape.recorder.events import TurnFinished
from tokentape.recorder.projections import RunSummary
from tokentape.store.sealed.sealing import RunSealer
from tokentape.store.source import Attachments


class LiveStore(EventLog, Attachments, Protocol):
    def recording(self, run_id: str) -> Recording:
        """The run with that id."""


class SealingLog:
    """Hands events to a store and, at the end of each turn and run, seals the run into a folder.

    That is done before `append` returns: the end of a turn takes as much longer.
    What cannot be sealed is in the store nevertheless: a warning says why, `fault` too, and the
    next seal makes up for it.
    """

    def __init__(self, store: LiveStore, folder: Path | str) -> None:
        self.fault = ""
        self._store = store
        self._folder = Path(folder)
        self._unsealed: dict[str, list[Record]] = {}
        self._sealers: dict[str, RunSealer] = {}

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

    def _seal(self, run_id: str, tail: list[Record]) -> None:
        try:
            # Of a run that has ended, nothing is to be remembered.
            sealer = self._sealers.pop(run_id, None) or self._sealer(run_id)
            if tail[-1].kind == TurnFinished.__name__:
                self._sealers[run_id] = sealer
            sealer.seal(tail)
            self.fault = ""
        except Exception as error:  # whatever it is: the event is kept, and the run must go on
            self.fault = f"run {run_id} is recorded, but was not sealed: {error}"
            self._warn()

    def _sealer(self, run_id: str) -> RunSealer:
        return RunSealer(self._store.recording(run_id), self._store, self._folder)

    def _warn(self) -> None:
        # Where warnings are made errors, this one would end the recording.
        with suppress(RuntimeWarning):
            warnings.warn(self.fault, RuntimeWarning, stacklevel=2)
