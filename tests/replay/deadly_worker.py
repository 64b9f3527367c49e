"""A process of the pool that dies on some sources, and verifies none."""

import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from tokentape.replay.bulk.sources import BulkOutcome, BulkSettings, RunSource


def serve(connection: Connection, settings: BulkSettings, threads: int) -> None:
    """Answer with an outcome for each source; die of one whose store is named deadly."""
    while True:
        try:
            sources = connection.recv()
        except (EOFError, OSError):
            return
        if any("deadly" in each.store for each in sources):
            os.kill(os.getpid(), signal.SIGKILL)
        connection.send([[BulkOutcome(store=each.store, name="verified")] for each in sources])


class DeadlyVerifier:
    """The verifier of an actor, which dies on some sources, and verifies none."""

    def __init__(self, settings: BulkSettings) -> None:
        """`settings.model` is a folder: a source named once kills one actor only."""
        self._folder = Path(settings.model or "")

    def verify(self, sources: Sequence[RunSource]) -> list[list[BulkOutcome]]:
        """Return an outcome for each source; die of one whose store is named deadly or once."""
        for each in sources:
            died = self._folder / Path(each.store).name
            if "deadly" in each.store or ("once" in each.store and not died.exists()):
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if "broken" in each.store:
                raise ValueError("a fault of ours")
        return [[self._outcome(each.store)] for each in sources]

    def _outcome(self, store: str) -> BulkOutcome:
        """Return an outcome that says which process found what at the place."""
        size = Path(store).stat().st_size if Path(store).exists() else None
        return BulkOutcome(store=store, name=f"{os.getpid()}", error=f"{store}: {size} bytes")
