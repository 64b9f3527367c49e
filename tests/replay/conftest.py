"""Forged copies of a recording: each changes one thing in the database."""

import json
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.tampering import without_triggers
from tokentape.recorder.events import ids_sha256

Forge = Callable[[sqlite3.Connection], None]


def change_body(
    connection: sqlite3.Connection, kind: str, change: Callable[[dict[str, Any]], None], turn: int
) -> None:
    """Rewrite the body of the first event of a kind that belongs to the turn, if it has one."""
    query = "SELECT event_key, body FROM events WHERE kind = ? ORDER BY event_key"
    for key, body in connection.execute(query, (kind,)):
        values = json.loads(body)
        if values.get("turn", turn) == turn:
            change(values)
            connection.execute(
                "UPDATE events SET body = ? WHERE event_key = ?", (json.dumps(values), key)
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


def cut_short(connection: sqlite3.Connection) -> None:
    """End turn 3 two tokens early, with a stop reason that fits."""
    last, count = connection.execute(
        "SELECT max(event_key), count(*) FROM tokens WHERE turn = 3"
    ).fetchone()
    connection.execute("DELETE FROM tokens WHERE event_key > ?", (last - 2,))
    connection.execute("DELETE FROM events WHERE event_key > ?", (last - 2,))
    body = {
        "turn": 3,
        "stop_reason": "max_new_tokens",
        "generated_tokens": count - 2,
        "text": "",
        "stop_text": "",
        "generator_sha256": "",
        "duration_us": 1_000,
    }
    connection.execute(
        "INSERT INTO events VALUES (?, 0, 3, 'TurnFinished', 1, ?, NULL)",
        (last - 1, json.dumps(body)),
    )


def other_text(connection: sqlite3.Connection) -> None:
    def change(body: dict[str, Any]) -> None:
        # Of the same length: later events point into the text.
        body["text"] = body["text"][::-1]

    change_body(connection, "TurnFinished", change, turn=2)


def other_limit(connection: sqlite3.Connection) -> None:
    def change(body: dict[str, Any]) -> None:
        body["sampling"]["max_new_tokens"] = 3

    change_body(connection, "TurnStarted", change, turn=2)


def other_position(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE tokens SET position = position + 1 WHERE turn = 2 AND step = 3")


def broken_settings(connection: sqlite3.Connection) -> None:
    def change(body: dict[str, Any]) -> None:
        body["sampling"]["temperature"] = "hot"

    change_body(connection, "TurnStarted", change, turn=2)


def other_logprob(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT event_key, logprob_f32 FROM tokens WHERE turn = 1")
    for key, bits in rows.fetchall():
        (logprob,) = struct.unpack("<f", struct.pack("<i", bits))
        (forged,) = struct.unpack("<i", struct.pack("<f", logprob - 0.01))
        connection.execute("UPDATE tokens SET logprob_f32 = ? WHERE event_key = ?", (forged, key))


FORGERIES: dict[str, Forge] = {
    "token": token,
    "system_word": system_word,
    "system_word_alone": system_word_alone,
    "seed": seed,
    "temperature": temperature,
    "cut_short": cut_short,
    "other_text": other_text,
    "other_limit": other_limit,
    "other_position": other_position,
    "broken_settings": broken_settings,
    "other_logprob": other_logprob,
}


@pytest.fixture(scope="session")
def forged() -> Callable[[Path, str], Path]:
    """Return a forged copy of a database, in the same folder."""

    def forge(database: Path, forgery: str) -> Path:
        copy = database.with_name(f"{forgery}.db")
        shutil.copy(database, copy)
        with closing(sqlite3.connect(copy)) as connection, without_triggers(connection):
            FORGERIES[forgery](connection)
        return copy

    return forge
