"""Copies of a recording with something changed in them, as a forger would change it."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recorder.events import ids_sha256

Forge = Callable[[sqlite3.Connection], None]


def change_body(
    connection: sqlite3.Connection, kind: str, change: Callable[[dict[str, Any]], None], turn: int
) -> None:
    """Rewrite the body of the first event of a kind that belongs to the turn, if it has one."""
    for seq, body in connection.execute("SELECT seq, body FROM events WHERE kind = ?", (kind,)):
        values = json.loads(body)
        if values.get("turn", turn) == turn:
            change(values)
            connection.execute(
                "UPDATE events SET body = ? WHERE seq = ?", (json.dumps(values), seq)
            )
            return
    raise AssertionError(f"no {kind} in turn {turn}")


def token(connection: sqlite3.Connection) -> None:
    changed = connection.execute(
        "UPDATE tokens SET token_id = (token_id + 7) % 200 + 10 WHERE turn = 3 AND step = 4"
    )
    assert changed.rowcount == 1


def system_word(connection: sqlite3.Connection) -> None:
    def change(body: dict[str, Any]) -> None:
        middle = len(body["ids"]) // 2
        body["ids"][middle : middle + 1] = [(body["ids"][middle] + 3) % 200 + 10]
        body["sha256"] = ids_sha256(body["ids"])

    change_body(connection, "SystemPromptCached", change, turn=0)


def system_word_alone(connection: sqlite3.Connection) -> None:
    def change(body: dict[str, Any]) -> None:
        body["ids"][3] = body["ids"][3] + 1

    change_body(connection, "SystemPromptCached", change, turn=0)


def seed(connection: sqlite3.Connection) -> None:
    def change(body: dict[str, Any]) -> None:
        body["seed"] += 1

    change_body(connection, "TurnStarted", change, turn=2)


def temperature(connection: sqlite3.Connection) -> None:
    def change(body: dict[str, Any]) -> None:
        body["sampling"]["temperature"] -= 0.01

    change_body(connection, "TurnStarted", change, turn=4)


FORGERIES: dict[str, Forge] = {
    "token": token,
    "system_word": system_word,
    "system_word_alone": system_word_alone,
    "seed": seed,
    "temperature": temperature,
}


@pytest.fixture(scope="session")
def forged() -> Callable[[Path, str], Path]:
    """A copy of a database beside it, with one of the forgeries done to it."""

    def forge(database: Path, forgery: str) -> Path:
        copy = database.with_name(f"{forgery}.db")
        shutil.copy(database, copy)
        with sqlite3.connect(copy) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            for (name,) in names.fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            FORGERIES[forgery](connection)
        connection.close()
        return copy

    return forge
