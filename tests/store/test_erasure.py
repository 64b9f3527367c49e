"""An erased run is gone, from the file as well; payloads that other runs share stay."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

import tokentape as tt
from tests.tampering import without_triggers
from tokentape.recorder.events import ToolReturned

SECRET = "the-parrot-is-in-the-attic"
Cli = Callable[..., tuple[int, str, str]]


def look_up(key: str, compact: bool = True) -> dict[str, str]:
    """Look something up.

    Args:
        key: What to look up.
        compact: Whether to be short.
    """
    return {"key": key, "found": "something that all can share" if key == "shared" else key}


def record_run(lm: tt.LoadedModel, store: tt.EventLog, *said: str) -> str:
    tools = tt.ToolInterface([look_up])
    with tt.Investigation(
        lm, store=store, name=said[0], system_prompt="Be kind.", tools=tools, seed=1
    ) as run:
        for each in said:
            call = tt.ToolCall(name="look_up", arguments={"key": each})
            run.chat(f"What of {each}?", tool_calls=[call], max_new_tokens=3)
    return run.run_id


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    return str(request.getfixturevalue("postgres_url"))


def payloads_of(recording: tt.Recording) -> list[str]:
    returned = (each.event for each in recording.events())
    return [each.payload_sha256 for each in returned if isinstance(each, ToolReturned)]


def test_a_run_and_what_only_it_has_are_gone_and_a_tombstone_stays(
    url: str, lm: tt.LoadedModel
) -> None:
    with tt.open_store(url) as store:
        erased_id = record_run(lm, store, SECRET, "shared")
        kept_id = record_run(lm, store, "harmless", "shared")
        kept = list(store.recording(kept_id).events())
        own, shared = payloads_of(store.recording(erased_id))
        last_seal = tt.check(store, erased_id).last_seal
        erasure = store.erase(erased_id[:23], reason="asked for", clock_us=lambda: 10**15)

        assert (erasure.run_id, erasure.blobs, erasure.last_seal) == (erased_id, 1, last_seal)
        assert [each.run_id for each in store.summaries()] == [kept_id]
        assert list(store.recording(kept_id).events()) == kept
        assert store.blob(shared)
        assert tt.check(store, kept_id).ok
        with pytest.raises(tt.StoreError, match="has no blob"):
            store.blob(own)
        said = f"run {erased_id} was erased on 2001-09-09T01:46:40Z: asked for"
        with pytest.raises(tt.NoSuchRunError, match=said):
            store.recording(erased_id)
        assert len(tt.tokens_df(store)) == len(tt.tokens_df(store, kept_id))


def test_the_list_of_the_weights_goes_with_the_last_run_that_has_it(
    url: str, lm: tt.LoadedModel
) -> None:
    with tt.open_store(url) as store:
        first, second = (record_run(lm, store, "harmless") for _ in range(2))
        sha256 = store.recording(first).started().weights_sha256
        store.erase(first)
        kept = store.blob(sha256)
        store.erase(second)
        with pytest.raises(tt.StoreError, match="has no blob"):
            store.blob(sha256)

    assert kept == lm.identity.weights.payload


def test_nothing_of_it_is_left_in_the_files(tmp_path: Path, lm: tt.LoadedModel, cli: Cli) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        run_id = record_run(lm, store, SECRET)
        record_run(lm, store, "harmless")

    def files_with_it() -> list[str]:
        return [each.name for each in tmp_path.iterdir() if SECRET.encode() in each.read_bytes()]

    assert files_with_it() == ["runs.db"]
    code, out, _ = cli("erase", run_id, "--store", str(path), "--yes")
    assert code == 0
    assert out.startswith(f"erased run {run_id}: ")
    assert files_with_it() == []
    assert cli("show", run_id, "--store", str(path))[0] == 2


def test_backups_that_may_still_have_it_are_named(
    tmp_path: Path, lm: tt.LoadedModel, cli: Cli
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        run_id = record_run(lm, store, SECRET)
    (tmp_path / "runs.db.0001.20260101T000000.backup").write_bytes(path.read_bytes())

    assert "may still have it: " in cli("erase", run_id, "--store", str(path), "--yes")[1]


def test_erasing_is_asked_for_twice(
    tmp_path: Path, lm: tt.LoadedModel, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        run_id = record_run(lm, store, SECRET)
    monkeypatch.setattr("typer.confirm", lambda *question, **settings: False)

    assert cli("erase", run_id, "--store", str(path))[0] == 2
    with tt.open_store(path) as store:
        assert tt.check(store, run_id).ok


def test_an_erased_run_does_not_come_back(url: str, tmp_path: Path, lm: tt.LoadedModel) -> None:
    with tt.open_store(url) as store, tt.open_store(tmp_path / "copy.db") as copy:
        run_id = record_run(lm, store, SECRET)
        copy.import_run(store.recording(run_id), store)
        assert tt.check(copy, run_id) == tt.check(store, run_id)
        store.erase(run_id)
        with pytest.raises(tt.StoreError, match="was erased from"):
            store.import_run(copy.recording(run_id), copy)

        assert store.summaries() == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM runs",
        "DELETE FROM events",
        "DELETE FROM tokens",
        "DELETE FROM blobs",
        "DELETE FROM tombstones",
        "UPDATE tombstones SET reason = ''",
        "UPDATE runs SET run_id = 'x'",
        "UPDATE runs SET started_at_us = 0",
        "UPDATE events SET body = '{}'",
    ],
)
def test_the_database_itself_deletes_nothing_without_a_tombstone(
    url: str, lm: tt.LoadedModel, statement: str
) -> None:
    with tt.open_store(url) as store:
        store.erase(record_run(lm, store, "gone"))
        run_id = record_run(lm, store, "here")
        before = list(store.recording(run_id).events())
    engine = create_engine(url)
    with engine.connect() as connection, pytest.raises(IntegrityError):
        connection.execute(text(statement))
    engine.dispose()
    with tt.open_store(url) as store:
        assert list(store.recording(run_id).events()) == before
        assert tt.check(store, run_id).ok


def test_the_database_itself_keeps_a_list_of_weights_that_a_run_names(
    url: str, lm: tt.LoadedModel
) -> None:
    with tt.open_store(url) as store:
        run = tt.Investigation(lm, store=store, name="n", system_prompt="Be kind.", seed=1)
        with run:
            sha256 = store.recording(run.run_id).started().weights_sha256
        engine = create_engine(url)
        with engine.connect() as connection, pytest.raises(IntegrityError):
            connection.execute(text("DELETE FROM blobs"))
        engine.dispose()
        assert store.blob(sha256) == lm.identity.weights.payload
        assert store.erase(run.run_id).blobs == 1


def test_what_is_erased_while_another_records_leaves_that_one_whole(
    tmp_path: Path, lm: tt.LoadedModel
) -> None:
    with tt.open_store(tmp_path / "runs.db") as store, tt.open_store(tmp_path / "runs.db") as other:
        erased_id = record_run(lm, store, SECRET)
        with tt.Investigation(lm, store=other, name="on", system_prompt="Be kind.", seed=1) as run:
            run.chat("One?", max_new_tokens=3)
            store.erase(erased_id)
            run.chat("Two?", max_new_tokens=3)

        assert tt.check(store, run.run_id).sealed_turns == 2


def test_a_list_of_weights_that_was_changed_or_lost_is_found(
    tmp_path: Path, lm: tt.LoadedModel, cli: Cli
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        run_id = record_run(lm, store, "harmless")
        sha256 = store.recording(run_id).started().weights_sha256
    with closing(sqlite3.connect(path)) as connection, without_triggers(connection):
        connection.execute("UPDATE blobs SET payload = ? WHERE sha256 = ?", (b"{}", sha256))
    said = cli("check", run_id, "--store", str(path))
    with closing(sqlite3.connect(path)) as connection, without_triggers(connection):
        connection.execute("DELETE FROM blobs WHERE sha256 = ?", (sha256,))

    assert said[0] == 1
    assert "the weights manifest was altered" in said[1]
    assert f"has no blob {sha256}" in cli("check", run_id, "--store", str(path))[1]


def test_a_payload_that_was_changed_is_found(tmp_path: Path, lm: tt.LoadedModel, cli: Cli) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        run_id = record_run(lm, store, "harmless", "shared")
    with closing(sqlite3.connect(path)) as connection, without_triggers(connection):
        for sha256, payload in connection.execute("SELECT * FROM blobs").fetchall():
            changed = payload.replace(b"that all can", b"that few can")
            connection.execute("UPDATE blobs SET payload = ? WHERE sha256 = ?", (changed, sha256))
    code, out, _ = cli("check", run_id, "--store", str(path))

    assert code == 1
    assert "the first bad turn is 2" in out
    assert "was altered" in out
