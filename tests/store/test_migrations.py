"""A store of any age becomes today's, with all that it holds, or stays as it was."""

import json
import sqlite3
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

import tokentape as tt
from tests.store.made_runs import make_run
from tokentape.recorder.codec import decode_body
from tokentape.recorder.events import TokenSampled
from tokentape.recorder.numbers import to_half
from tokentape.recorder.projections import RunSummary
from tokentape.store import StoredVerdict, database_url, upgrade_store
from tokentape.store.live.schema import alembic_config, head, triggers_of
from tokentape.store.live.tables import TRIGGERS, metadata

SCHEMAS = Path(__file__).parent / "schemas"
RELEASED = sorted(path.stem for path in SCHEMAS.glob("*.sql"))
Cli = Callable[..., tuple[int, str, str]]


def old_store(folder: Path, revision: str) -> Path:
    """A store as it was kept at that schema; `schemas/<revision>.sql` is its dump."""
    path = folder / f"{revision}.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((SCHEMAS / f"{revision}.sql").read_text(encoding="utf-8"))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def blank_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    return str(request.getfixturevalue("postgres_url"))


def test_migrations_make_the_tables_and_triggers_that_are_declared(blank_url: str) -> None:
    tt.open_store(blank_url).close()
    engine = create_engine(blank_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})

        assert compare_metadata(context, metadata) == []
        truncations = {name for name in triggers_of(connection) if name.endswith("_truncate")}
        assert triggers_of(connection) - truncations == TRIGGERS
    engine.dispose()


def test_the_first_schema_is_kept_and_none_is_skipped() -> None:
    revisions = [
        each.revision for each in ScriptDirectory.from_config(alembic_config()).walk_revisions()
    ]

    assert RELEASED[0] == "0001"
    assert set(RELEASED) <= set(revisions)
    assert len(ScriptDirectory.from_config(alembic_config()).get_heads()) == 1


@pytest.mark.parametrize("revision", RELEASED)
def test_an_upgraded_store_has_every_row_it_had(tmp_path: Path, revision: str) -> None:
    path = old_store(tmp_path, revision)
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        old_runs = connection.execute("SELECT * FROM runs ORDER BY run_key").fetchall()
        old_events = connection.execute("SELECT * FROM events ORDER BY run_key, seq").fetchall()
        old_tokens = connection.execute("SELECT * FROM tokens ORDER BY run_key, seq").fetchall()
        old_blobs = connection.execute("SELECT * FROM blobs").fetchall()
    connection.close()
    with tt.open_store(path, upgrade=True) as store:
        assert [each.run_id for each in store.summaries()] == [row["run_id"] for row in old_runs]
        assert [each.turns for each in store.summaries()] == [row["turns"] for row in old_runs]
        for run in old_runs:
            envelopes = list(store.recording(run["run_id"]).events())
            events = [each for each in envelopes if not isinstance(each.event, TokenSampled)]
            tokens = [each for each in envelopes if isinstance(each.event, TokenSampled)]
            of_run = [row for row in old_events if row["run_key"] == run["run_key"]]
            bodies = [decode_body(row["kind"], row["version"], row["body"]) for row in of_run]
            assert [each.event for each in events] == bodies
            assert [each.seq for each in events] == [row["seq"] for row in of_run]
            assert [each.at_us for each in events] == [row["at_us"] for row in of_run]
            same_run = [row for row in old_tokens if row["run_key"] == run["run_key"]]
            assert len(tokens) == len(same_run) > 0
            for envelope, row in zip(tokens, same_run, strict=True):
                assert_same_token(envelope, row)
        for row in old_blobs:
            assert store.blob(row["sha256"]) == row["payload"]


def assert_same_token(envelope: tt.Envelope, row: sqlite3.Row) -> None:
    token = envelope.event
    assert isinstance(token, TokenSampled)
    exact = ("turn", "step", "position", "token_id", "logprob", "logprob_processed")

    assert envelope.seq == row["seq"]
    assert [getattr(token, name) for name in exact] == [row[name] for name in exact]
    assert (token.entropy, token.top_gap) == to_half(row["entropy"], row["top_gap"])
    assert token.duration_us == row["duration_us"]
    ids, logprobs = row["top_ids"], row["top_logprobs"]
    assert token.top_ids == struct.unpack(f"<{len(ids) // 4}i", ids)
    assert token.top_logprobs == to_half(*struct.unpack(f"<{len(logprobs) // 4}f", logprobs))


@pytest.mark.parametrize("revision", RELEASED)
def test_an_upgraded_store_is_made_as_a_new_one_and_takes_new_runs(
    tmp_path: Path, revision: str, lm: tt.LoadedModel, record: Callable[..., tt.Recording]
) -> None:
    path = old_store(tmp_path, revision)
    tt.open_store(path, upgrade=True).close()
    tt.open_store(tmp_path / "new.db").close()

    def schema(file: Path) -> set[tuple[str, str]]:
        with sqlite3.connect(file) as connection:
            rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL")
            return {(name, " ".join(sql.replace('"', "").split())) for name, sql in rows}

    assert schema(path) == schema(tmp_path / "new.db")
    with tt.open_store(path) as store:
        recording = record(lm, store, tokens=2)
        assert tt.check(store, recording.run_id).holds


def test_the_triggers_that_a_batch_alter_drops_are_there_again(tmp_path: Path) -> None:
    path = old_store(tmp_path, "0001")
    tt.open_store(path, upgrade=True).close()
    with sqlite3.connect(path) as connection:
        with pytest.raises(sqlite3.IntegrityError, match="blobs is append-only"):
            connection.execute("UPDATE blobs SET payload = ''")
        with pytest.raises(sqlite3.IntegrityError, match="tokens is append-only"):
            connection.execute("DELETE FROM tokens")
    connection.close()


def test_an_upgrade_that_loses_a_trigger_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old_store(tmp_path, "0001")
    monkeypatch.setattr("tokentape.store.live.schema.TRIGGERS", TRIGGERS | {"one_that_is_not_made"})
    before = path.read_bytes()
    with pytest.raises(tt.StoreError, match="lost one_that_is_not_made: it is undone"):
        tt.open_store(path, upgrade=True)

    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
        assert connection.execute("SELECT count(*) FROM tokens").fetchone()[0] > 0
    connection.close()
    assert path.read_bytes() == before


def test_an_older_store_is_refused_until_it_is_upgraded_and_a_backup_is_made(
    tmp_path: Path, cli: Cli
) -> None:
    path = old_store(tmp_path, "0001")
    before = path.read_bytes()
    code, _, err = cli("list", "--store", str(path))

    assert code == 2
    assert "has schema 0001" in err
    assert "tokentape db upgrade" in err
    assert path.read_bytes() == before

    assert cli("db", "current", "--store", str(path))[1] == f"0001, to be upgraded to {head()}\n"
    code, out, _ = cli("db", "upgrade", "--store", str(path))
    (backup,) = tmp_path.glob("*.backup")
    assert code == 0
    assert out == f"0001 -> {head()}; backup: {backup}\n"
    with sqlite3.connect(backup) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
    connection.close()
    assert cli("list", "--store", str(path))[0] == 0
    assert cli("db", "upgrade", "--store", str(path))[1] == f"{head()} is the newest already\n"
    assert len(list(tmp_path.glob("*.backup"))) == 1
    code, out, _ = cli("db", "history", "--store", str(path), "--json")
    assert [each["revision"] for each in json.loads(out) if each["is_current"]] == [head()]
    assert json.loads(out)[0]["summary"] == "Create runs, events, tokens and blobs."


def test_what_was_recorded_before_there_were_seals_is_read_and_not_vouched_for(
    tmp_path: Path, cli: Cli
) -> None:
    path = old_store(tmp_path, "0001")
    tt.open_store(path, upgrade=True).close()
    with tt.open_store(path) as store:
        run_id = store.summaries()[0].run_id
        assert len(tt.rebuild(store.recording(run_id)).turns) == 2
    code, out, _ = cli("check", run_id, "--store", str(path))

    assert code == 1
    assert "recorded before there were seals" in out


def test_a_newer_store_exits_with_3_and_is_left_alone(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "runs.db"
    tt.open_store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
    connection.close()
    before = path.read_bytes()
    for arguments in (["list"], ["db", "current"], ["db", "upgrade"], ["db", "history"]):
        code, _, err = cli(*arguments, "--store", str(path))

        assert code == 3
        assert "has schema 0999" in err
        assert "upgrade tokentape" in err
    assert path.read_bytes() == before


def test_a_postgresql_store_is_upgraded_only_by_those_who_have_a_backup(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0001")
    engine.dispose()
    with pytest.raises(tt.StoreError, match="make a backup with pg_dump"):
        tt.open_store(postgres_url, upgrade=True)

    done = upgrade_store(database_url(postgres_url), backup=False)
    assert (done.before, done.after, done.backup) == ("0001", head(), None)
    with tt.open_store(postgres_url) as store:
        assert store.summaries() == []


def test_a_blank_database_is_made_by_one_of_many_who_find_it(postgres_url: str) -> None:
    stores = [tt.open_store(postgres_url) for _ in range(3)]
    for store in stores:
        store.close()
    engine = create_engine(postgres_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1
    engine.dispose()


def test_a_store_from_before_verdicts_is_upgraded_and_takes_some(blank_url: str) -> None:
    with tt.open_store(blank_url) as store:
        run_id = make_run(store, turns=2)
        records = list(store.recording(run_id).records())
    engine = create_engine(blank_url)
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0003")
    upgrade_store(database_url(blank_url), backup=False)
    verdict = StoredVerdict(run_id=run_id, at_us=0, replay="verify", verdict="exact", report={})
    with tt.open_store(blank_url) as store:
        assert list(store.recording(run_id).records()) == records
        assert store.verdicts(run_id) == store.floors(run_id) == []
        store.keep_verdict(verdict)
        assert store.verdicts(run_id) == [verdict]
    with engine.connect() as connection:
        assert triggers_of(connection) >= TRIGGERS
        with pytest.raises(NotImplementedError, match="verdicts would be lost"):
            command.downgrade(alembic_config(connection), "0003")
    engine.dispose()


def test_a_backup_that_cannot_be_finished_is_not_left_and_nothing_is_upgraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old_store(tmp_path, "0001")
    before = path.read_bytes()

    def break_off(source: Path, aside: Path) -> str:
        aside.write_bytes(b"half")
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("tokentape.store.live.schema._copied", break_off)
    with pytest.raises(tt.StoreError, match=r"cannot make the backup .* disk is full; nothing was"):
        tt.open_store(path, upgrade=True)

    assert path.read_bytes() == before
    assert {each.suffix for each in tmp_path.iterdir()} <= {".db", ".db-wal", ".db-shm"}


def test_threads_make_stores_at_once(tmp_path: Path) -> None:
    def make(number: int) -> list[RunSummary]:
        with tt.open_store(tmp_path / f"{number}.db") as store:
            return store.summaries()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(make, range(16))) == [[]] * 16
