"""The schema of a new store, and how an older store becomes one of today, or stays unchanged."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

import tokentape as tt
from tests.store.later_schema import LATER, LOSE_TRIGGERS, add_later_schema, remove_later_schema
from tests.store.made_runs import make_run
from tests.store.view_rows import ORDER, assert_rows_are_frame
from tokentape.migrations.schema_0001.triggers import NAMED_BY_AN_EVENT
from tokentape.recorder.projections import RunSummary
from tokentape.store import OlderStoreError, database_url, upgrade_store
from tokentape.store.frames import frames
from tokentape.store.frames.columns import FRAMES
from tokentape.store.live.schema import alembic_config, head, triggers_of
from tokentape.store.live.schema_version import VERSION_TABLE
from tokentape.store.live.tables import TRIGGERS, metadata
from tokentape.store.payloads import PAYLOAD_KINDS

SCHEMAS = Path(__file__).parent / "schemas"
RELEASED = sorted(path.stem for path in SCHEMAS.glob("*.sql"))
Cli = Callable[..., tuple[int, str, str]]


def released_store(folder: Path, version: str) -> Path:
    """Load the store that `schemas/VERSION.sql` is a dump of."""
    path = folder / f"{version}.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((SCHEMAS / f"{version}.sql").read_text(encoding="utf-8"))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def blank_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def later_schema(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Make the rest of the test know a newer schema; return the one before it."""
    yield lambda *body: add_later_schema(tmp_path / "versions", *body)
    remove_later_schema()


@pytest.fixture
def older_store(tmp_path: Path, later_schema: Callable[..., str]) -> Path:
    """A closed store in a file, whose schema is no longer the newest."""
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        make_run(store)
    later_schema()
    return path


def version_and_runs(path: Path) -> tuple[Any, ...]:
    with sqlite3.connect(path) as connection:
        row = connection.execute(
            "SELECT version_num, (SELECT count(*) FROM runs) FROM tokentape_version"
        ).fetchone()
    connection.close()
    return tuple(row)


def test_migrations_make_the_tables_triggers_and_views_that_are_declared(blank_url: str) -> None:
    tt.open_store(blank_url).close()
    engine = create_engine(blank_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": VERSION_TABLE}
        )

        assert compare_metadata(context, metadata) == []
        truncations = {name for name in triggers_of(connection) if name.endswith("_truncate")}
        assert triggers_of(connection) - truncations == TRIGGERS
        assert bool(truncations) == (engine.dialect.name == "postgresql")
        assert set(inspect(connection).get_view_names()) == set(FRAMES)
    engine.dispose()


def test_each_kind_of_event_that_names_a_payload_guards_it() -> None:
    assert all(f"'{kind}'" in NAMED_BY_AN_EVENT for kind in PAYLOAD_KINDS)


def test_there_is_one_newest_schema_and_a_dump_of_the_first_release() -> None:
    assert RELEASED[0] == "0.1.0"
    assert len(ScriptDirectory.from_config(alembic_config()).get_heads()) == 1


@pytest.mark.parametrize("version", RELEASED)
def test_a_store_of_a_released_version_is_read_as_its_own_views_say(
    tmp_path: Path, version: str
) -> None:
    path = released_store(tmp_path, version)
    viewed = {}
    with sqlite3.connect(path) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'"):
            cursor = connection.execute(f"SELECT * FROM {name} ORDER BY {ORDER[name]}")
            names = [each[0] for each in cursor.description]
            viewed[name] = (names, cursor.fetchall())
    connection.close()
    with tt.open_store(path, upgrade=True) as store:
        assert len(store.summaries()) == 5
        for summary in store.summaries():
            assert tt.check(store, summary.run_id).faults == ()
            tt.rebuild(store.recording(summary.run_id))
        for name, (names, rows) in viewed.items():
            shared = [each for each in names if each in FRAMES[name].names]
            places = [names.index(each) for each in shared]
            frame = getattr(frames, name)(store, columns=shared)
            assert len(frame) > 0
            assert_rows_are_frame(name, [[row[at] for at in places] for row in rows], frame)


@pytest.mark.parametrize("version", RELEASED)
def test_an_upgraded_store_has_the_schema_of_a_new_one_and_takes_new_runs(
    tmp_path: Path, version: str
) -> None:
    path = released_store(tmp_path, version)
    tt.open_store(path, upgrade=True).close()
    tt.open_store(tmp_path / "new.db").close()

    def schema(file: Path) -> set[tuple[str, str]]:
        with sqlite3.connect(file) as connection:
            rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL")
            return {(name, " ".join(sql.replace('"', "").split())) for name, sql in rows}

    assert schema(path) == schema(tmp_path / "new.db")
    with tt.open_store(path) as store:
        assert tt.check(store, make_run(store)).faults == ()


def test_an_upgrade_keeps_every_record(blank_url: str, later_schema: Callable[..., str]) -> None:
    with tt.open_store(blank_url) as store:
        run_id = make_run(store)
        records = list(store.recording(run_id).records())
    before = later_schema()
    done = upgrade_store(database_url(blank_url), backup=False)

    assert (done.before, done.after, done.backup) == (before, LATER, None)
    with tt.open_store(blank_url) as store:
        assert list(store.recording(run_id).records()) == records
        make_run(store)
    engine = create_engine(blank_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM notes")).scalar() == 0
        assert triggers_of(connection) >= TRIGGERS
    engine.dispose()


def test_an_upgrade_that_loses_a_trigger_is_undone(
    tmp_path: Path, later_schema: Callable[..., str]
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        make_run(store)
    before = later_schema(LOSE_TRIGGERS)
    content = path.read_bytes()
    with pytest.raises(
        tt.StoreError, match="undone: it lost blobs_refuse_delete, blobs_refuse_update"
    ):
        tt.open_store(path, upgrade=True)

    assert version_and_runs(path) == (before, 1)
    assert path.read_bytes() == content


def test_an_older_store_is_refused_until_it_is_upgraded_and_a_backup_is_made(
    tmp_path: Path, older_store: Path, cli: Cli
) -> None:
    path, content = older_store, older_store.read_bytes()
    before, runs = version_and_runs(path)
    code, _, err = cli("list", "--store", str(path))

    assert (code, runs) == (2, 1)
    assert f"has schema {before}" in err
    assert "tokentape db upgrade" in err
    assert path.read_bytes() == content

    assert cli("db", "current", "--store", str(path))[1] == f"{before}, to be upgraded to {LATER}\n"
    code, out, _ = cli("db", "upgrade", "--store", str(path))
    (backup,) = tmp_path.glob("*.backup")
    assert code == 0
    assert out == f"{before} -> {LATER}; backup: {backup}\n"
    assert version_and_runs(backup) == (before, 1)
    assert cli("list", "--store", str(path))[0] == 0
    assert cli("db", "upgrade", "--store", str(path))[1] == f"{LATER} is the newest already\n"
    assert len(list(tmp_path.glob("*.backup"))) == 1
    code, out, _ = cli("db", "history", "--store", str(path), "--json")
    assert [each["revision"] for each in json.loads(out) if each["is_current"]] == [LATER]
    assert json.loads(out)[0]["summary"] == "Create the store."


def test_a_newer_store_exits_with_3_and_is_left_alone(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "runs.db"
    tt.open_store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE tokentape_version SET version_num = '0999'")
    connection.close()
    before = path.read_bytes()
    for arguments in (["list"], ["db", "current"], ["db", "upgrade"], ["db", "history"]):
        code, _, err = cli(*arguments, "--store", str(path))

        assert code == 3
        assert "has schema 0999" in err
        assert "upgrade tokentape" in err
    assert path.read_bytes() == before


def test_a_postgresql_store_is_upgraded_only_by_those_who_have_a_backup(
    postgres_url: str, later_schema: Callable[..., str]
) -> None:
    tt.open_store(postgres_url).close()
    before = later_schema()
    with pytest.raises(OlderStoreError, match=r"pg_dump and `tokentape db upgrade --no-backup`"):
        tt.open_store(postgres_url)
    with pytest.raises(tt.StoreError, match="make a backup with pg_dump"):
        tt.open_store(postgres_url, upgrade=True)

    done = upgrade_store(database_url(postgres_url), backup=False)
    assert (done.before, done.after, done.backup) == (before, head(), None)
    with tt.open_store(postgres_url) as store:
        assert store.summaries() == []


def test_a_blank_database_is_made_by_one_of_many_who_find_it(postgres_url: str) -> None:
    stores = [tt.open_store(postgres_url) for _ in range(3)]
    for store in stores:
        store.close()
    engine = create_engine(postgres_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM tokentape_version")).scalar() == 1
    engine.dispose()


def test_a_backup_that_cannot_be_finished_is_not_left_and_nothing_is_upgraded(
    tmp_path: Path, older_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = older_store.read_bytes()

    def break_off(source: Path, copy: Path) -> str:
        copy.write_bytes(b"half")
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("tokentape.store.live.backup.copy_database", break_off)
    with pytest.raises(tt.StoreError, match=r"cannot make the backup .* disk is full; nothing was"):
        tt.open_store(older_store, upgrade=True)

    assert older_store.read_bytes() == before
    files = {each.suffix for each in tmp_path.iterdir() if each.is_file()}
    assert files <= {".db", ".db-wal", ".db-shm"}


def test_threads_make_stores_at_once(tmp_path: Path) -> None:
    def make(number: int) -> list[RunSummary]:
        with tt.open_store(tmp_path / f"{number}.db") as store:
            return store.summaries()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(make, range(16))) == [[]] * 16
