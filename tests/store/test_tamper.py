"""A recording that was altered outside the store is detected."""

import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tokentape as tt
from tests.store.crash import record_script
from tokentape.recorder.events import ToolReturned
from tokentape.recorder.projections import summarise_all
from tokentape.store import DatabaseStore
from tokentape.store.arrow import TOKENS
from tokentape.store.live.tables import SEQ_BITS, TRIGGERS, blobs, events, runs, tokens
from tokentape.store.source import Selection

TABLES = (events, tokens, runs, blobs)
COLUMNS = [(table.name, column.name) for table in TABLES for column in table.columns]
KEYS = {"events": "event_key", "tokens": "event_key", "runs": "run_key", "blobs": "sha256"}


@dataclass
class Opened:
    """A store in memory whose triggers are gone, and the runs in it."""

    store: DatabaseStore
    rows: sqlite3.Connection
    run_id: str
    other_id: str

    def found(self, run_id: str | None = None, *, seal: str | None = None) -> bool:
        """Whether a check of the run says that something is wrong, in our own words."""
        try:
            return not tt.check(self.store, run_id or self.run_id, seal=seal).ok
        except tt.TokentapeError:
            return True

    def key_of(self, run_id: str) -> int:
        query = "SELECT run_key FROM runs WHERE run_id = ?"
        return int(self.rows.execute(query, (run_id,)).fetchone()[0]) << SEQ_BITS


@pytest.fixture
def opened(store: DatabaseStore, monkeypatch: pytest.MonkeyPatch) -> Opened:
    run_id = record_script(store, "a run", turns=3, seed=1)
    other_id = record_script(store, "another", turns=2, seed=2)
    connection: Any = store._engine.raw_connection().driver_connection
    for name in TRIGGERS:
        connection.execute(f"DROP TRIGGER {name}")
    connection.commit()
    connection.isolation_level = None
    # tests/store/test_schema_check.py shows that a missing trigger is found.
    monkeypatch.setattr("tokentape.store.live.reader.schema_faults_now", lambda reader: [])
    sound = Opened(store, connection, run_id, other_id)
    assert not sound.found(run_id)
    assert not sound.found(other_id)
    return sound


def flipped(value: Any, chance: random.Random) -> Any:
    """The value with one bit of it changed; something where there was nothing."""
    if value is None or value in ("", b""):
        return {None: 1, "": "x", b"": b"x"}[value]
    if isinstance(value, int):
        changed = value ^ 1 << chance.randrange(max(8, value.bit_length() + 1))
        return changed if changed < 2**63 else value ^ 1
    raw = bytearray(value.encode() if isinstance(value, str) else value)
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return bytes(raw)


def flip_values(opened: Opened, count: int, *, seed: int) -> tuple[int, list[str]]:
    """How many flips were made, each undone again, and those that were not found."""
    chance = random.Random(seed)
    rows, missed = opened.rows, []
    lowest = opened.key_of(opened.run_id)
    within = {
        "events": f"event_key BETWEEN {lowest} AND {lowest + (1 << SEQ_BITS) - 1}",
        "runs": f"run_key = {lowest >> SEQ_BITS}",
        "blobs": "EXISTS (SELECT 1 FROM events WHERE instr(body, sha256) "
        f"AND event_key >> {SEQ_BITS} = {lowest >> SEQ_BITS})",
    }
    within["tokens"] = within["events"]
    for number in range(count):
        # In turn, so that none is left out.
        table, column = COLUMNS[number % len(COLUMNS)]
        key = KEYS[table]
        query = f"SELECT {key}, {column} FROM {table} WHERE {within[table]}"
        at, before = chance.choice(rows.execute(query).fetchall())
        after = flipped(before, chance)
        mark = "CAST(? AS TEXT)" if isinstance(before, str) else "?"
        clash = rows.execute(f"SELECT 1 FROM {table} WHERE {key} = {mark}", (after,)).fetchone()
        if column == key and clash:
            after = before ^ 1 << 62
        rows.execute(f"UPDATE {table} SET {column} = {mark} WHERE {key} = ?", (after, at))
        if not opened.found():
            missed.append(f"{table}.{column} of {at}: {before!r} -> {after!r}")
        at_now = after if column == key else at
        key_mark = mark if column == key else "?"
        undone = f"UPDATE {table} SET {column} = ? WHERE {key} = {key_mark}"
        assert rows.execute(undone, (before, at_now)).rowcount == 1
    assert not opened.found()
    return count, missed


def test_a_thousand_flips_are_found(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    made, missed = flip_values(opened, 1_000, seed=2)

    with capsys.disabled():
        print(f" {made:,} flips of recorded values, {made - len(missed):,} found ", end="")
    assert missed == []


def run_sql(*statements: str) -> Callable[[Opened], None]:
    """Statements with the keys of the two runs' first events to fill in."""

    def change(opened: Opened) -> None:
        keys = {"a": opened.key_of(opened.run_id), "b": opened.key_of(opened.other_id)}
        for statement in statements:
            opened.rows.execute(statement.format(**keys))

    return change


FORGERIES = {
    "two events swapped": run_sql(
        "UPDATE events SET event_key = -1 WHERE event_key = {a} + 1",
        "UPDATE events SET event_key = {a} + 1 WHERE event_key = {a} + 2",
        "UPDATE events SET event_key = {a} + 2 WHERE event_key = -1",
    ),
    "two tokens swapped": run_sql(
        "UPDATE tokens SET event_key = -1 WHERE event_key = {a} + 6",
        "UPDATE tokens SET event_key = {a} + 6 WHERE event_key = {a} + 7",
        "UPDATE tokens SET event_key = {a} + 7 WHERE event_key = -1",
    ),
    "an event removed": run_sql("DELETE FROM events WHERE event_key = {a} + 2"),
    "the first event removed": run_sql("DELETE FROM events WHERE event_key = {a}"),
    "the last event removed": run_sql(
        "DELETE FROM events WHERE kind = 'RunFinished' AND event_key < {a} + 1000"
    ),
    "an event removed, the rest moved up": run_sql(
        "DELETE FROM events WHERE event_key = {a} + 2",
        "UPDATE events SET event_key = -event_key WHERE event_key BETWEEN {a} + 3 AND {a} + 1000",
        "UPDATE events SET event_key = -event_key - 1 WHERE event_key < 0",
        "UPDATE tokens SET event_key = -event_key WHERE event_key BETWEEN {a} + 3 AND {a} + 1000",
        "UPDATE tokens SET event_key = -event_key - 1 WHERE event_key < 0",
    ),
    "an event added at the end": run_sql(
        "INSERT INTO events SELECT (SELECT max(event_key) + 1 FROM events WHERE event_key < {a} "
        '+ 1000), after_us, 4, \'CacheCleared\', 1, \'{{"freed_bytes":1,"reason":"x"}}\', NULL '
        "FROM events WHERE event_key = {a}"
    ),
    "a message added at the end": run_sql(
        "INSERT INTO events SELECT (SELECT max(event_key) + 1 FROM events WHERE event_key < {a} "
        "+ 1000), after_us, 4, kind, version, body, NULL FROM events WHERE event_key = {a} + 2"
    ),
    "an event there twice": run_sql(
        "INSERT INTO events SELECT {a} + 6, after_us, turn, kind, version, body, seal FROM events "
        "WHERE event_key = {a} + 1"
    ),
    "a seal removed": run_sql(
        "UPDATE events SET seal = NULL WHERE kind = 'TurnFinished' AND turn = 2"
    ),
    "all seals removed": run_sql("UPDATE events SET seal = NULL"),
    "the seals of another run": run_sql(
        "UPDATE events SET seal = (SELECT other.seal FROM events AS other WHERE other.event_key "
        "> {b} AND other.kind = events.kind AND other.turn IS events.turn) "
        "WHERE seal IS NOT NULL AND event_key < {b}"
    ),
    "a seal where none belongs": run_sql(
        "UPDATE events SET seal = 'blake2b-256:00' WHERE event_key = {a} + 1"
    ),
    "the start changed": run_sql(
        "UPDATE events SET body = replace(body, 'by hand', 'by whom') WHERE event_key = {a}",
        "UPDATE runs SET model = 'by whom'",
    ),
    "the time of the start changed": run_sql(
        "UPDATE runs SET started_at_us = started_at_us + 1000, updated_at_us = updated_at_us + 1000"
    ),
    "the events of another run": run_sql(
        "DELETE FROM events WHERE event_key BETWEEN {a} AND {a} + 1000",
        "DELETE FROM tokens WHERE event_key BETWEEN {a} AND {a} + 1000",
        "UPDATE events SET event_key = event_key - {b} + {a} WHERE event_key > {a} + 1000",
        "UPDATE tokens SET event_key = event_key - {b} + {a} WHERE event_key > {a} + 1000",
    ),
    "the row of another run": run_sql(
        "UPDATE runs SET run_id = 'x' || run_id",
        "UPDATE runs SET run_id = (SELECT max(run_id) FROM runs) WHERE run_key = {b} >> 28",
    ),
    "the payload of another call": run_sql(
        "UPDATE blobs SET payload = payload || 'x'",
    ),
    "a payload removed": run_sql("DELETE FROM blobs"),
    "no row": run_sql("DELETE FROM runs"),
    "text kept as bytes": run_sql("UPDATE events SET body = CAST(body AS BLOB)"),
    "a kind kept as bytes": run_sql("UPDATE events SET kind = CAST(kind AS BLOB)"),
    "words for numbers": run_sql("UPDATE tokens SET token_id = 'many'"),
    "words for times": run_sql("UPDATE events SET after_us = 'late'"),
    "a word for the start": run_sql("UPDATE runs SET started_at_us = 'early'"),
    "a fraction for a time": run_sql("UPDATE events SET after_us = after_us + 0.5"),
    "a number that none has": run_sql("UPDATE tokens SET entropy_f16 = 70000"),
    "words for a payload": run_sql("UPDATE blobs SET payload = 'words'"),
    "a number for a payload": run_sql("UPDATE blobs SET payload = 1000000000000"),
    "a body that is not UTF-8": run_sql("UPDATE events SET body = CAST(x'7bff7d' AS TEXT)"),
    "a body that is no object": run_sql("UPDATE events SET body = '[1]'"),
    "a body that nests without end": run_sql(
        "UPDATE events SET body = replace(hex(zeroblob(100000)), '00', '[')"
    ),
}


def tables_of(store: DatabaseStore) -> list[Callable[[], pa.Table]]:
    every = Selection(columns=tuple(TOKENS.names))
    return [lambda: store.events_table(Selection()), lambda: store.tokens_table(every)]


def read_all(store: DatabaseStore, run_id: str) -> None:
    """Whatever people read; only our own errors may come of it."""
    readers: list[Callable[[], object]] = [
        lambda: list(store.recording(run_id).events()),
        lambda: store.recording(run_id).turns(),
        lambda: store.recording(run_id).messages(),
        lambda: tt.rebuild(store.recording(run_id)),
        store.summaries,
        *tables_of(store),
    ]
    for read in readers:
        try:
            read()
        except tt.TokentapeError:
            continue


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_found_and_said_in_our_own_words(opened: Opened, forgery: str) -> None:
    FORGERIES[forgery](opened)

    assert opened.found()
    read_all(opened.store, opened.run_id)


def test_events_of_no_run_are_not_shown_as_those_of_another(opened: Opened) -> None:
    record_script(opened.store, "a third")
    opened.rows.execute("DELETE FROM runs WHERE run_id = ?", (opened.other_id,))
    for read in tables_of(opened.store):
        with pytest.raises(tt.RecordingError, match="events without a run"):
            read()


def test_a_turn_removed_from_the_end_shows_in_the_last_seal(opened: Opened) -> None:
    """If the summary is forged as well, the rest is a recording that was cut off."""
    last_seal = tt.check(opened.store, opened.run_id).last_seal
    (cut,) = opened.rows.execute(
        "SELECT max(event_key) FROM events WHERE kind = 'TurnFinished' AND turn = 2 "
        f"AND event_key < {opened.key_of(opened.other_id)}"
    ).fetchone()
    for table in ("events", "tokens"):
        opened.rows.execute(
            f"DELETE FROM {table} WHERE event_key > ? AND event_key < ?",
            (cut, opened.key_of(opened.other_id)),
        )
    assert opened.found()
    envelopes = opened.store.recording(opened.run_id).events()
    row = row_of(list(envelopes))
    opened.rows.execute(
        "UPDATE runs SET status = ?, updated_at_us = ?, turns = ?, prompt_tokens = ?, "
        "reused_tokens = ?, generated_tokens = ? WHERE run_id = ?",
        (*row, opened.run_id),
    )

    assert not opened.found()
    assert opened.found(seal=last_seal)


def row_of(envelopes: list[tt.Envelope]) -> tuple[Any, ...]:
    summary = summarise_all(envelopes)
    assert summary is not None
    return (
        summary.status,
        summary.updated_at_us,
        summary.turns,
        summary.prompt_tokens,
        summary.reused_tokens,
        summary.generated_tokens,
    )


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store on disk with two runs, and a third that was erased."""
    path = tmp_path_factory.mktemp("sound") / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        record_script(store, "a run", turns=4, seed=1)
        gone = record_script(store, "erased", turns=2, seed=2)
        record_script(store, "another", turns=6, seed=3)
        store.erase(gone, reason="it had to be")
    assert [each.name for each in path.parent.iterdir()] == ["runs.db"]
    return path


def everything(path: Path) -> tuple[list[Any], list[str]]:
    """What the store says by every way of asking, and the faults that checks find in it."""
    with tt.open_store(path, must_exist=True) as store:
        assert isinstance(store, DatabaseStore)
        summaries = store.summaries()
        said: list[Any] = [summaries]
        faults = list(store.verify_files(""))
        for summary in summaries:
            envelopes = list(store.recording(summary.run_id).events())
            said.append(envelopes)
            for envelope in envelopes:
                if isinstance(envelope.event, ToolReturned):
                    said.append(store.blob(envelope.event.payload_sha256))
            faults += tt.check(store, summary.run_id).faults
        said += [read() for read in tables_of(store)]
    return said, faults


@dataclass
class Flips:
    refused: int = 0
    found: int = 0
    harmless: int = 0


def flip_bytes(sound: Path, folder: Path, count: int, *, seed: int) -> tuple[Flips, list[str]]:
    """Change a byte of the file, `count` times; and the changes that gave a wrong answer."""
    chance = random.Random(seed)
    content = sound.read_bytes()
    truth, faults = everything(sound)
    assert faults == []
    path = folder / "runs.db"
    flips, wrong = Flips(), []
    for _ in range(count):
        at, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        changed = bytearray(content)
        changed[at] ^= bit
        path.write_bytes(changed)
        try:
            said, faults = everything(path)
        except tt.TokentapeError:
            flips.refused += 1
        else:
            equal = said == truth
            flips.found += bool(faults)
            flips.harmless += equal and not faults
            if not equal and not faults:
                wrong.append(f"bit {bit} of byte {at}")
        assert path.read_bytes() == changed, f"looking changed the file: bit {bit} of byte {at}"
        assert [each.name for each in folder.iterdir()] == ["runs.db"]
    return flips, wrong


def test_a_byte_changed_in_the_file_gives_no_wrong_answer(sound_file: Path, tmp_path: Path) -> None:
    flips, wrong = flip_bytes(sound_file, tmp_path, 60, seed=1)

    assert wrong == []
    assert flips.refused + flips.found > 20
