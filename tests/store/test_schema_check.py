"""A store is opened only with the schema that the migrations make, and nothing added to it."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

import tokentape as tt
from tests.store.made_runs import make_run, verdict_of
from tests.store.test_migrations import released_store
from tokentape.store import DatabaseStore, OlderStoreError

Cli = Callable[..., tuple[int, str, str]]
FOR_EVER = (
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS run_id FROM n"
)
SHIFTED = (
    "PRAGMA writable_schema=ON",
    "UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE name = '{name}'",
)


def rewritten(name: str, old: str, new: str) -> tuple[str, ...]:
    """Statements that change the definition of an object in place, as a flipped bit does."""
    return tuple(each.format(name=name, old=old, new=new) for each in SHIFTED)


HARMS: dict[str, tuple[tuple[str, ...], str]] = {
    "a flipped bit in a view": (
        rewritten("turns_df", "TurnStarted", "UurnStarted"),
        "view turns_df differs",
    ),
    "a flipped bit in a trigger": (
        rewritten("events_refuse_update", "BEFORE UPDATE", "BEFORE DELETE"),
        "trigger events_refuse_update differs",
    ),
    "a trigger that was dropped": (("DROP TRIGGER tokens_refuse_gap",), "refuse_gap is missing"),
    "a view that was dropped": (("DROP VIEW cache_df",), "view cache_df is missing"),
    "a view in place of a table": (
        ("PRAGMA writable_schema=ON", "DELETE FROM sqlite_master WHERE tbl_name = 'runs' "
         "AND type <> 'table'", "UPDATE sqlite_master SET type = 'view', "
         f"rootpage = 0, sql = 'CREATE VIEW runs AS {FOR_EVER}' WHERE name = 'runs'"),
        "runs is a view, not our table",
    ),
    "a virtual table in place of a table": (
        ("PRAGMA writable_schema=ON", "DELETE FROM sqlite_master WHERE tbl_name = 'floors' "
         "AND type <> 'table'", "UPDATE sqlite_master SET rootpage = 0, sql = "
         "'CREATE VIRTUAL TABLE floors USING fts5(run_key)' WHERE name = 'floors'"),
        "floors is a virtual table, not our table",
    ),
    "a table in place of a view": (
        ("DROP VIEW tools_df", "CREATE TABLE tools_df (run_id)"),
        "tools_df is a table, not our view",
    ),
    "a trigger of another program": (
        ("CREATE TRIGGER spy AFTER INSERT ON verdicts BEGIN SELECT 1; END",),
        "trigger spy on our verdicts was not made by tokentape",
    ),
    "a trigger whose name is a control sequence": (
        ('CREATE TRIGGER "\x1b]0;spy" AFTER INSERT ON runs BEGIN SELECT 1; END',),
        r"trigger \x1b]0;spy on our runs was",
    ),
    "a trigger on a view": (
        ("CREATE TRIGGER spy INSTEAD OF INSERT ON runs_df BEGIN SELECT 1; END",),
        "trigger spy on our runs_df",
    ),
    "a column that was added": (
        ("ALTER TABLE floors ADD COLUMN more AS (length(hex(zeroblob(1000))))",),
        "table floors differs",
    ),
    "a unique index": (("CREATE UNIQUE INDEX one ON events (event_key)",), "index one on our"),
    "a partial index": (
        ("CREATE INDEX one ON events (kind) WHERE turn > 1",),
        "index one on our events",
    ),
    "an index that computes": (
        ("CREATE INDEX one ON tokens (hex(zeroblob(step)))",),
        "index one on our tokens",
    ),
    "a version that is computed": (
        ("DROP TABLE tokentape_version", "CREATE TABLE tokentape_version "
         "(n, version_num AS (hex(zeroblob(100000000))))",
         "INSERT INTO tokentape_version VALUES (1)"),
        "tokentape_version is not a plain table",
    ),
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store of one run with a verdict."""
    with tt.open_store(tmp_path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        store.add_verdict(verdict_of(make_run(store)))
    return tmp_path / "runs.db"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("harm", HARMS)
def test_a_schema_that_was_changed_is_refused_in_one_line_by_every_command(
    path: Path, cli: Cli, harm: str
) -> None:
    statements, fault = HARMS[harm]
    change(path, *statements)
    before = path.read_bytes()
    for arguments in (["list"], ["check"], ["db", "upgrade"]):
        code, out, err = cli(*arguments, "--store", str(path))

        assert (code, out, err.count("\n")) == (2, "", 1)
        assert fault in err
        assert str(path) in err
    assert path.read_bytes() == before


def test_a_schema_that_changes_while_a_store_is_open_is_found_by_its_check(path: Path) -> None:
    with tt.open_store(path) as store:
        (summary,) = store.summaries()
        assert tt.check(store, summary.run_id).ok
        change(path, "CREATE TRIGGER spy AFTER INSERT ON verdicts BEGIN SELECT 1; END")
        (fault,) = tt.check(store, summary.run_id).faults
        assert "runs.db: trigger spy on our verdicts was not made by tokentape" in fault


def test_tables_of_another_program_are_left_alone_whatever_they_compute(
    path: Path, cli: Cli
) -> None:
    big = "length(hex(zeroblob(100000000)))"
    change(
        path,
        "CREATE TABLE theirs (n, hidden AS (n + 1), CHECK (n > 0))",
        "INSERT INTO theirs VALUES (1)",
        "CREATE INDEX their_index ON theirs (n + 1)",
        "CREATE TRIGGER their_trigger AFTER INSERT ON theirs BEGIN DELETE FROM theirs; END",
        f"CREATE VIEW their_view AS {FOR_EVER} JOIN runs",
        "CREATE INDEX plain ON events (kind, turn DESC)",
        "PRAGMA writable_schema=ON",
        f"UPDATE sqlite_master SET sql = replace(sql, 'n > 0', '{big} > n') WHERE name = 'theirs'",
        f"UPDATE sqlite_master SET sql = replace(sql, 'n + 1)', 'n + {big}) NOT NULL') "
        "WHERE name = 'theirs'",
    )
    assert cli("check", "--store", str(path))[0] == 0
    with tt.open_store(path) as store:
        assert tt.check(store, make_run(store)).ok


def test_damage_in_an_index_is_found(path: Path) -> None:
    change(
        path,
        "PRAGMA writable_schema=ON",
        "CREATE TABLE parked (run_id)",
        "CREATE INDEX other ON parked (run_id)",
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master "
        "WHERE name = 'other') WHERE name = 'sqlite_autoindex_runs_1'",
    )
    with tt.open_store(path) as store:
        faults = store.verify_files("")
    assert "missing from index sqlite_autoindex_runs_1" in faults[0]


@pytest.mark.parametrize("table", ["verdicts", "floors", "run_labels", "events", "tokens"])
def test_rows_of_no_run_are_found(path: Path, table: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        trigger = "runs_refuse_delete"
        query = "SELECT sql FROM sqlite_master WHERE name = ?"
        (sql,) = connection.execute(query, (trigger,)).fetchone()
        connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("DELETE FROM runs")
        connection.execute(sql)
        connection.commit()
    with tt.open_store(path) as store:
        faults = " ".join(store.verify_files(""))
    assert (f"there are {table} without a run" in faults) == (table not in ("floors", "run_labels"))


def test_a_counter_that_would_give_a_key_again_is_found(path: Path) -> None:
    change(path, "UPDATE sqlite_sequence SET seq = 0")
    with tt.open_store(path) as store:
        (fault,) = store.verify_files("")
    assert "the counter of run keys is damaged" in fault


def test_a_store_of_the_first_release_is_checked_before_it_is_upgraded(tmp_path: Path) -> None:
    path = released_store(tmp_path, "0.1.0")
    change(path, "CREATE TRIGGER spy AFTER INSERT ON runs BEGIN SELECT 1; END")
    before = path.read_bytes()
    with pytest.raises(OlderStoreError):
        tt.open_store(path)
    with pytest.raises(tt.StoreError, match="trigger spy on our runs"):
        tt.open_store(path, upgrade=True)
    assert path.read_bytes() == before
    change(path, "DROP TRIGGER spy")
    with tt.open_store(path, upgrade=True) as store:
        assert store.verify_files("") == []


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        ("DROP VIEW cache_df", "view cache_df is missing"),
        ("DROP TRIGGER events_refuse_gap ON events", "trigger events_refuse_gap is missing"),
        ("ALTER TABLE runs DISABLE TRIGGER runs_refuse_move", "runs_refuse_move is disabled"),
        ("DROP VIEW tools_df; CREATE TABLE tools_df (n integer)", "tools_df is a table, not our"),
        (
            "CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
            "CREATE TRIGGER spy BEFORE INSERT ON verdicts FOR EACH ROW EXECUTE FUNCTION spy()",
            "trigger spy on our verdicts",
        ),
        ("CREATE TABLE more () INHERITS (events)", "table events has a child table"),
        ("CREATE RULE r AS ON INSERT TO runs DO INSTEAD NOTHING", "table runs has a child"),
        ("ALTER TABLE blobs ENABLE ROW LEVEL SECURITY", "table blobs has a child"),
    ],
)
def test_a_postgresql_schema_that_was_changed_is_refused(
    postgres_url: str, harm: str, fault: str
) -> None:
    tt.open_store(postgres_url).close()
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text(harm))
    engine.dispose()
    with pytest.raises(tt.StoreError, match=f"the schema of .* {fault}"):
        tt.open_store(postgres_url)


def test_a_schema_of_countless_views_is_refused_before_it_is_read(path: Path, cli: Cli) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.executemany(
            "INSERT INTO sqlite_master VALUES ('view', ?, ?, 0, ?)",
            ((f"v{n}", f"v{n}", f"CREATE VIEW v{n} AS SELECT 1") for n in range(20_000)),
        )
        connection.commit()
    code, _, err = cli("list", "--store", str(path))

    assert (code, err.count("\n")) == (2, 1)
    assert "has more than about 10,000 tables, views" in err
