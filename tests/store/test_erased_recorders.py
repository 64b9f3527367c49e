"""A recorder whose run, schema or file is gone is told what happened to it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import tokentape as tt
from tests.store.later_schema import LATER, add_later_schema, remove_later_schema
from tests.store.made_runs import begin, make_run, say, token, verdict_of
from tests.tampering import without_triggers
from tokentape.recorder.events import CacheCleared, TurnStarted
from tokentape.store import DatabaseStore, database_url, upgrade_store

Event = Callable[[tt.Recorder], None]
EVENTS: dict[str, Event] = {
    "a token": lambda recorder: recorder.record(token(2, 0, candidates=0)),
    "an event": lambda recorder: recorder.record(CacheCleared(reason="x", freed_bytes=0)),
    "a turn": lambda recorder: say(recorder, 2, tokens=1),
    "the end of the run": lambda recorder: recorder.finish(),
    "a failure": lambda recorder: recorder.fail(KeyError("x")),
}


def second(live_store: DatabaseStore) -> DatabaseStore:
    opened = tt.open_store(live_store._engine.url.render_as_string(hide_password=False))
    assert isinstance(opened, DatabaseStore)
    return opened


def begin_turn(store: DatabaseStore) -> tt.Recorder:
    """Return a recorder in the middle of a turn."""
    recorder = begin(store)
    say(recorder, 1, tokens=2)
    recorder.record(
        TurnStarted(
            turn=2,
            prompt_tokens=3,
            kept_tokens=0,
            kept_chars=0,
            added_ids=(1, 2, 3),
            added_text="abc",
            history_reason="",
            seed=2,
            sampling={"do_sample": True},
        )
    )
    return recorder


@pytest.mark.parametrize("event", EVENTS)
def test_the_recorder_of_an_erased_run_is_told_that_it_was_erased(
    live_store: DatabaseStore, event: str
) -> None:
    recorder = begin_turn(live_store)
    with second(live_store) as other:
        other.erase(recorder.run_id, reason="it had to be")
    erased = rf"run {recorder.run_id} was erased on .*Z: it had to be"
    with pytest.raises(tt.StoreError, match=erased):
        EVENTS[event](recorder)

    assert live_store.summaries() == []
    assert live_store.verify_files("") == []


def test_the_store_that_erases_a_run_tells_its_own_recorder(store: DatabaseStore) -> None:
    recorder = begin_turn(store)
    store.erase(recorder.run_id)
    with pytest.raises(tt.StoreError, match="was erased on"):
        recorder.record(token(2, 0, candidates=0))


def test_the_recorder_of_a_run_that_was_packed_and_erased_is_told(
    store: DatabaseStore, tmp_path: Path
) -> None:
    recorder = begin(store)
    say(recorder, 1, tokens=2)
    tt.pack([store.recording(recorder.run_id)], store, tmp_path / "one.tape")
    store.erase(recorder.run_id, reason="packed")
    with pytest.raises(tt.StoreError, match=r"was erased on .*: packed"):
        say(recorder, 2, tokens=2)


def test_an_erased_run_cannot_be_started_again(live_store: DatabaseStore) -> None:
    run_id = make_run(live_store)
    live_store.erase(run_id)
    with pytest.raises(tt.StoreError, match=f"run {run_id} was erased from .* cannot be added"):
        begin(live_store, run_id)

    assert live_store.verify_files("") == []


def test_the_recorder_of_a_run_whose_row_was_deleted_is_told(tmp_path: Path) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        recorder = begin_turn(store)
        with (
            closing(sqlite3.connect(tmp_path / "runs.db")) as rows,
            without_triggers(rows),
        ):
            for table in ("runs", "events", "tokens"):
                rows.execute(f"DELETE FROM {table}")
        with pytest.raises(tt.StoreError, match=r"runs\.db has no run"):
            recorder.record(CacheCleared(reason="x", freed_bytes=0))
            recorder.finish()


def test_two_recorders_of_a_run_are_still_told_that_it_has_one_writer(
    live_store: DatabaseStore,
) -> None:
    recorder = begin_turn(live_store)
    with second(live_store) as other, pytest.raises(tt.StoreError, match="a run has one writer"):
        begin(other, recorder.run_id)


@pytest.fixture
def later_schema(tmp_path: Path) -> Iterator[Callable[[], str]]:
    yield lambda: add_later_schema(tmp_path / "versions")
    remove_later_schema()


def test_the_recorder_of_a_store_that_is_upgraded_is_told(
    tmp_path: Path, later_schema: Callable[[], str]
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        recorder = begin_turn(store)
        before = later_schema()
        upgrade_store(database_url(path), backup=False)
        told = f"runs.db was upgraded from schema {before} to {LATER} while it was open"
        with pytest.raises(tt.StoreError, match=told):
            recorder.finish()
        with pytest.raises(tt.StoreError, match=told):
            store.add_verdict(verdict_of(recorder.run_id))


def test_a_trigger_that_is_added_while_a_store_is_open_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        run_id = make_run(store)
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE seen (n)")
            other.commit()
            store.add_verdict(verdict_of(run_id))
            other.execute(
                "CREATE TRIGGER spy AFTER INSERT ON verdicts BEGIN INSERT INTO seen VALUES (1); END"
            )
            other.commit()
            with pytest.raises(tt.StoreError, match="trigger spy on our verdicts"):
                store.add_verdict(verdict_of(run_id, 10**15 + 1))
            assert other.execute("SELECT * FROM seen").fetchall() == []
