"""A database that other applications use, too, and a server by way of a pooler."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url

import tokentape as tt
from tests.store.later_schema import LATER, add_later_schema, remove_later_schema
from tests.store.made_runs import make_run
from tests.store.test_migrations import released_store
from tokentape.store import DatabaseStore, OlderStoreError, database_url, upgrade_store
from tokentape.store.live import connections
from tokentape.store.live.schema import head
from tokentape.store.live.schema_version import VERSION_TABLE


def engine_of(url: str) -> Engine:
    return create_engine(make_url(url))


def rows_of(url: str, table: str) -> list[str]:
    engine = engine_of(url)
    with engine.connect() as connection:
        found = connection.execute(text(f"SELECT version_num FROM {table}")).scalars().all()
    engine.dispose()
    return sorted(found)


def add_another_application(url: str, revision: str, table: str = "things") -> None:
    """Create what `alembic upgrade` of another application would."""
    engine = engine_of(url)
    with engine.begin() as connection:
        if not inspect(connection).has_table("alembic_version"):
            connection.execute(
                text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
            )
        connection.execute(
            text("INSERT INTO alembic_version (version_num) VALUES (:revision)"),
            {"revision": revision},
        )
        connection.execute(text(f"CREATE TABLE {table} (id INTEGER)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def blank_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.mark.parametrize(
    ("ours_first", "revision"), [(True, "0001"), (False, "0002"), (False, "ae1027a6acf0")]
)
def test_a_store_shares_a_database_with_another_application_that_uses_alembic(
    blank_url: str, ours_first: bool, revision: str
) -> None:
    if ours_first:
        tt.open_store(blank_url).close()
    add_another_application(blank_url, revision)
    with tt.open_store(blank_url) as store:
        run_id = make_run(store)
        assert tt.check(store, run_id).faults == ()
    assert upgrade_store(database_url(blank_url), backup=False).before == head()
    with tt.open_store(blank_url, must_exist=True) as store:
        assert len(store.summaries()) == 1
    assert rows_of(blank_url, "alembic_version") == [revision]
    assert rows_of(blank_url, VERSION_TABLE) == [head()]


@pytest.mark.parametrize("table", ["runs", "events"])
def test_a_table_of_another_application_with_one_of_our_names_is_refused_and_left_alone(
    blank_url: str, table: str
) -> None:
    add_another_application(blank_url, "ae1027a6acf0", table)
    with pytest.raises(tt.StoreError, match=f"has a table '{table}'.*Name another database"):
        tt.open_store(blank_url)

    engine = engine_of(blank_url)
    with engine.connect() as connection:
        names = set(inspect(connection).get_table_names())
    engine.dispose()
    assert names == {"alembic_version", table}


def test_a_schema_of_its_own_keeps_a_store_apart_from_tables_of_its_names(
    postgres_url: str,
) -> None:
    add_another_application(postgres_url, "ae1027a6acf0", "runs")
    engine = engine_of(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA ours"))
    engine.dispose()
    separator = "&" if "?" in postgres_url else "?"
    with tt.open_store(f"{postgres_url}{separator}options=-csearch_path%3Dours") as store:
        assert tt.check(store, make_run(store)).faults == ()
    with pytest.raises(tt.StoreError, match="has a table 'runs'"):
        tt.open_store(postgres_url)


def test_a_database_without_our_tables_is_no_store_to_read(blank_url: str) -> None:
    add_another_application(blank_url, "ae1027a6acf0")
    with pytest.raises(tt.StoreError, match="a database of another application"):
        tt.open_store(blank_url, must_exist=True)


@pytest.fixture
def first_release(tmp_path: Path) -> Path:
    """A store of version 0.1.0, which kept its version in Alembic's table."""
    return released_store(tmp_path, "0.1.0")


@pytest.mark.parametrize("others", [(), ("ae1027a6acf0",)])
def test_a_store_of_the_first_release_stays_unchanged_and_moves_its_version_when_upgraded(
    first_release: Path, others: tuple[str, ...]
) -> None:
    url = f"sqlite:///{first_release}"
    for revision in others:
        add_another_application(url, revision)
    with pytest.raises(OlderStoreError, match="has schema 0001"):
        tt.open_store(first_release)
    assert rows_of(url, "alembic_version") == sorted(["0001", *others])

    done = upgrade_store(database_url(url))
    assert (done.before, done.after) == ("0001", head())
    assert done.backup is not None
    assert rows_of(url, VERSION_TABLE) == [head()]
    with closing(sqlite3.connect(first_release)) as connection:
        (table,) = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"
        ).fetchone()
    assert table == bool(others)
    if others:
        assert rows_of(url, "alembic_version") == sorted(others)
    with tt.open_store(first_release) as store:
        make_run(store)
        assert len(store.summaries()) == 6


def test_a_row_that_may_be_that_of_another_application_stays(first_release: Path) -> None:
    with closing(sqlite3.connect(first_release)) as connection:
        connection.execute("CREATE TABLE things (id INTEGER)")
    url = f"sqlite:///{first_release}"
    upgrade_store(database_url(url))

    assert rows_of(url, "alembic_version") == ["0001"]
    assert rows_of(url, VERSION_TABLE) == [head()]


def test_a_store_of_the_first_release_is_upgraded_to_a_later_schema(
    first_release: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{first_release}"
    add_another_application(url, "ae1027a6acf0")
    add_later_schema(tmp_path / "versions")
    try:
        with pytest.raises(tt.TokentapeError, match="has schema 0001"):
            tt.open_store(first_release)
        done = upgrade_store(database_url(url))
        assert (done.before, done.after) == ("0001", LATER)
        assert done.backup is not None
        with tt.open_store(first_release) as store:
            assert len(store.summaries()) == 5
    finally:
        remove_later_schema()
    assert rows_of(url, "alembic_version") == ["ae1027a6acf0"]
    assert rows_of(url, VERSION_TABLE) == [LATER]


def test_a_session_of_a_server_is_set_up_without_startup_options(postgres_url: str) -> None:
    with tt.open_store(postgres_url) as store:
        assert isinstance(store, DatabaseStore)
        _, given = store._engine.dialect.create_connect_args(store._engine.url)
        assert "options" not in given
        session = store._writer.driver_connection
        assert session.execute("SHOW synchronous_commit").fetchone() == ("off",)


def test_a_pooler_is_recognised_by_the_process_id_that_it_invents(postgres_url: str) -> None:
    class Answer:
        def fetchone(self) -> tuple[int]:
            return (7,)

    class Session:
        class info:
            backend_pid = 8

        def execute(self, statement: str) -> Answer:
            return Answer()

    assert connections.is_pooled(Session())
    with tt.open_store(postgres_url) as store:
        assert isinstance(store, DatabaseStore)
        assert not connections.is_pooled(store._writer.driver_connection)


def test_through_a_pooler_a_setting_lasts_for_one_transaction_and_nothing_is_prepared(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("connections", "database"):
        monkeypatch.setattr(f"tokentape.store.live.{module}.is_pooled", lambda session: True)
    with tt.open_store(postgres_url) as store:
        assert isinstance(store, DatabaseStore)
        session = store._writer.driver_connection
        seen: list[Any] = []
        insert: Callable[..., None] = store._insert

        def insert_and_look(*given: Any) -> None:
            insert(*given)
            seen.append(session.execute("SHOW synchronous_commit").fetchone()[0])

        monkeypatch.setattr(store, "_insert", insert_and_look)
        run_id = make_run(store)
        assert tt.check(store, run_id).faults == ()
        kinds = [record.kind for record in store.recording(run_id).records()]
        assert {s for s, kind in zip(seen, kinds, strict=True) if kind == "TokenSampled"} == {"off"}
        assert {s for s, kind in zip(seen, kinds, strict=True) if kind == "TurnFinished"} == {"on"}
        assert session.execute("SHOW synchronous_commit").fetchone() == ("on",)
        assert session.prepare_threshold is None
        assert session.execute("SELECT * FROM pg_prepared_statements").fetchall() == []
