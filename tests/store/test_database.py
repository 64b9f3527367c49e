"""The live store refuses what would harm a recording."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

import tokentape as tt
from tests.store.made_runs import append_all
from tokentape.recorder.codec import encode
from tokentape.recorder.events import CacheCleared


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET body = '{}'",
        "UPDATE tokens SET token_id = 1",
        "DELETE FROM events",
        "DELETE FROM tokens WHERE step = 0",
        "DELETE FROM blobs",
        "UPDATE blobs SET payload = ''",
        "REPLACE INTO tokens SELECT * FROM tokens",
    ],
)
def test_what_was_recorded_cannot_be_changed(
    tmp_path: Path, statement: str, lm: tt.LoadedModel, record: Callable[..., tt.Recording]
) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        recording = record(lm, store, tokens=2)
        before = list(recording.events())
        with store._engine.connect() as connection, pytest.raises(IntegrityError, match="append"):
            connection.execute(text(statement))

        assert list(recording.events()) == before


def test_a_second_writer_is_refused_and_writes_nothing(
    tmp_path: Path, lm: tt.LoadedModel, record: Callable[..., tt.Recording]
) -> None:
    with tt.open_store(tmp_path / "runs.db") as store, tt.open_store(tmp_path / "runs.db") as other:
        recording = record(lm, store, tokens=2)
        before = list(recording.events())
        late = tt.Envelope(recording.run_id, 3, 0, CacheCleared(reason="late", freed_bytes=0))
        with pytest.raises(tt.StoreError, match="already has event 3, or lacks the one before"):
            other.append(late, encode(late), durable=True, summary=None)

        assert list(recording.events()) == before


def test_a_run_that_was_never_started_takes_no_events(tmp_path: Path) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        envelope = tt.Envelope("unknown", 0, 0, CacheCleared(reason="x", freed_bytes=0))
        with pytest.raises(tt.NoSuchRunError):
            append_all(store, [envelope])

        assert store.summaries() == []


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
        connection.execute("INSERT INTO bookmarks VALUES ('x')")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: path.write_text("not a database " * 50), "no SQLite header"),
        (lambda path: path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 4096), "cannot be read"),
        (foreign_database, "a database of another application"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_and_left_alone(
    tmp_path: Path, make: Callable[[Path], None], complaint: str
) -> None:
    path = tmp_path / "thing.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(tt.StoreError, match=complaint):
        tt.open_store(path)

    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["thing.db"]


def test_a_store_that_must_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(tt.StoreError, match="there is no store"):
        tt.open_store(tmp_path / "runs.db", must_exist=True)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["postgresql+psycopg://host/db", "what://", "://"])
def test_a_url_that_is_no_store_is_refused(where: str) -> None:
    with pytest.raises(tt.StoreError):
        tt.open_store(where)
