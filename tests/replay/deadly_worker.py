"""A process of the pool that dies on some sources, and verifies none."""

import os
import signal
from multiprocessing.connection import Connection

from tokentape.replay.bulk.sources import BulkOutcome, BulkSettings


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
