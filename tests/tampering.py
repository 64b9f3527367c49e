"""Changes of a database that its triggers refuse."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_triggers(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Drop all triggers, and create them again at the end: the schema is checked, too."""
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    triggers = connection.execute(query).fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    yield connection
    for _, sql in triggers:
        connection.execute(sql)
    connection.commit()
