"""Copies of a database in which a test can change everything."""

import itertools
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tampering import without_triggers

Change = Callable[[dict[str, Any]], None]
_NUMBERS = itertools.count()


def altered_copy(database: Path, change: Callable[[sqlite3.Connection], None]) -> Path:
    """Return a copy in the same folder with changes that the triggers refuse."""
    copy = database.with_name(f"copy-{next(_NUMBERS)}.db")
    shutil.copy(database, copy)
    connection = sqlite3.connect(copy)
    with without_triggers(connection):
        change(connection)
    connection.close()
    return copy


def change_bodies(
    connection: sqlite3.Connection,
    kind: str,
    change: Change,
    which: Callable[[dict[str, Any]], bool] = lambda body: True,
) -> None:
    """Rewrite the bodies of events of a kind; at least one must exist."""
    query = "SELECT event_key, body FROM events WHERE kind = ?"
    bodies = [(key, json.loads(body)) for key, body in connection.execute(query, (kind,))]
    chosen = [(key, body) for key, body in bodies if which(body)]
    assert chosen, f"no such {kind}"
    for key, body in chosen:
        change(body)
        connection.execute(
            "UPDATE events SET body = ? WHERE event_key = ?", (json.dumps(body), key)
        )
