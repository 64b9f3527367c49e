"""Event logs that benchmarks record into."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokentape as tt
from tokentape.recorder import Record
from tokentape.recorder.projections import RunSummary
from tokentape.store import DatabaseStore


def open_file_store(path: Path) -> DatabaseStore:
    """Open a SQLite file with the settings that a user's run has."""
    store = tt.open_store(f"sqlite:///{path}")
    assert isinstance(store, DatabaseStore)
    return store


@dataclass(slots=True)
class EventList:
    """An event log in memory."""

    events: list[Any] = field(default_factory=list)

    def append(
        self,
        envelope: tt.Envelope,
        record: Record,
        *,
        durable: bool,
        summary: RunSummary | None,
    ) -> None:
        """Append the event without its envelope."""
        self.events.append(envelope.event)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        """Do nothing: no benchmark that uses this log calls a tool."""
