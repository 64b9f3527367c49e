"""Faults around the store harm no recording, and the error is clear.

Clear means: a TokentapeError in one line that names the place.
"""

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

import tokentape as tt
from tests.store.crash import ROOT, Script, record_item, record_script, started
from tokentape.recorder.events import CacheCleared
from tokentape.store import DatabaseStore


def live(where: str | Path) -> DatabaseStore:
    opened = tt.open_store(where)
    assert isinstance(opened, DatabaseStore)
    return opened


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two runs, closed."""
    path = tmp_path_factory.mktemp("sound") / "runs.db"
    with live(path) as opened:
        record_script(opened, "one", turns=3, seed=1)
        record_script(opened, "two", turns=3, seed=2)
    return path


def test_a_full_disk_is_told_once_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with live(path) as opened:
        whole = record_script(opened, "whole")
        pages = opened._writer.execute("PRAGMA page_count").fetchone()[0]
        opened._writer.execute(f"PRAGMA max_page_count = {pages + 4}")
        recorder = tt.Recorder(opened)
        recorder.record(started("cut"))
        kept = 1
        with pytest.raises(tt.StoreError, match=r"cannot write to .*runs\.db.*full"):
            for _ in range(10_000):
                recorder.record(CacheCleared(reason="x" * 100, freed_bytes=0))
                kept += 1
        with pytest.raises(tt.TokentapeError, match="lost an event"):
            recorder.record(CacheCleared(reason="on and on", freed_bytes=0))
        held = len(list(opened.recording(recorder.run_id).records()))
        opened._writer.execute("PRAGMA max_page_count = 100000")
        after = record_script(opened, "after")

        assert kept > 5
        assert held == kept
        for run_id in (whole, recorder.run_id, after):
            assert tt.check(opened, run_id).faults == ()
        assert opened.verify_files("") == []


FILLED = """
import resource, sys
from tokentape.recorder import Recorder, TokentapeError
from tokentape.store import open_store
from tests.store.crash import Script, record_item

with open_store(sys.argv[1]) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    recorder = Recorder(store)
    kept = 0
    try:
        for item in Script("cut", 1).turns(1000):
            record_item(recorder, item)
            kept += 1
    except TokentapeError as error:
        print(type(error).__name__, error)
    print(recorder.run_id, recorder._next_seq)
    try:
        recorder.fail(KeyError("x"))
        print("failed")
    except TokentapeError as error:
        print(type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    with Recorder(store) as recorder:
        for item in Script("after", 2).turns(2):
            record_item(recorder, item)
print("works again")
"""


@pytest.mark.parametrize("room", [100_000, 200_000, 333_333])
def test_a_file_that_cannot_grow_is_told_and_harms_nothing(tmp_path: Path, room: int) -> None:
    path = tmp_path / "runs.db"
    with live(path) as opened:
        record_script(opened, "whole")
    child = subprocess.run(
        [sys.executable, "-c", FILLED, str(path), str(room)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    told, run, _, last = child.stdout.splitlines()
    run_id, acknowledged = run.split()
    with live(path) as opened:
        held = list(opened.recording(run_id).records())

        assert told.startswith("StoreError cannot write to ")
        assert last == "works again"
        assert child.stderr == ""
        assert len(held) - (held[-1].kind == "RunFailed") == int(acknowledged)
        assert len(opened.summaries()) == 3
        for each in opened.summaries():
            assert tt.check(opened, each.run_id).faults == ()


READER = """
import os, sys
import tokentape.recorder, tokentape.store, tokentape.cli

path, sys.argv[1:] = sys.argv[1], sys.argv[2:]
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
tokentape.cli.main()
"""
WRITER = """
import os, sys
from tokentape.recorder import Recorder, TokentapeError
from tokentape.store import open_store
from tests.store.crash import started

if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    with open_store(sys.argv[1]) as store, Recorder(store) as recorder:
        recorder.record(started("mine"))
    print("written")
except TokentapeError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def guarded(sound: Path) -> Iterator[Path]:
    """A copy of the store where another user can look, and only look."""
    # Not below pytest's own folder, which is closed to others.
    folder = Path(tempfile.mkdtemp(prefix="tokentape-readonly-"))
    shutil.copy(sound, folder / "runs.db")
    (folder / "runs.db").chmod(0o444)
    folder.chmod(0o555)
    yield folder / "runs.db"
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("folder_mode", [0o555, 0o777])
def test_a_store_that_may_not_be_written_says_so(guarded: Path, folder_mode: int) -> None:
    guarded.parent.chmod(folder_mode)
    before = guarded.read_bytes()
    child = subprocess.run(
        [sys.executable, "-c", WRITER, str(guarded)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert child.stderr == ""
    assert child.stdout.startswith("StoreError cannot ")
    assert child.stdout.count("\n") == 1
    assert str(guarded) in child.stdout
    assert guarded.read_bytes() == before


def test_a_store_that_somebody_holds_too_long_is_told(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokentape.store.live.connections.BUSY_TIMEOUT_MS", 200)
    path = Path(shutil.copy(sound, tmp_path))
    holder = sqlite3.connect(path, isolation_level=None)
    with live(path) as opened:
        recorder = tt.Recorder(opened)
        recorder.record(started("mine"))
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(tt.StoreError, match=r"cannot write to .*runs\.db: .*locked"):
            recorder.record(CacheCleared(reason="x", freed_bytes=0))
        with pytest.raises(tt.StoreError, match="locked"):
            opened.put_blob("0" * 64, b"x")
        with pytest.raises(tt.StoreError, match="locked"):
            opened.erase(opened.summaries()[0].run_id)
        assert len(opened.summaries()) == 3
        holder.execute("ROLLBACK")
        holder.close()

        assert tt.check(opened, recorder.run_id).faults == ()
        assert tt.check(opened, record_script(opened, "after")).ok


@pytest.mark.parametrize("instead", ["another file", "nothing"])
def test_a_file_that_is_taken_away_while_it_is_recorded_into_is_told(
    sound: Path, tmp_path: Path, instead: str
) -> None:
    path = Path(shutil.copy(sound, tmp_path))
    with live(path) as opened:
        recorder = tt.Recorder(opened)
        recorder.record(started("mine"))
        path.rename(tmp_path / "taken.db")
        if instead == "another file":
            shutil.copy(sound, path)
        with pytest.raises(tt.StoreError, match=r"runs\.db was moved or replaced"):
            for item in list(Script("mine", 1).turns(1))[1:]:
                record_item(recorder, item)
        if instead == "another file":
            assert path.read_bytes() == sound.read_bytes()


def test_a_full_postgresql_is_told(postgres_url: str) -> None:
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    url = make_url(postgres_url)
    role = f"guest_{url.database}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1"))
        connection.execute(text(f"ALTER DATABASE {url.database} OWNER TO {role}"))
        connection.execute(text(f"GRANT ALL ON SCHEMA public TO {role}"))
    guest = url.set(username=role).render_as_string(hide_password=False)
    with live(guest) as opened:
        recorder = tt.Recorder(opened)
        recorder.record(started("mine"))
        with pytest.raises(tt.StoreError, match=r"cannot open .*too many connections"):
            tt.open_store(guest)
        with pytest.raises(tt.StoreError, match=r"cannot read .*too many connections"):
            opened.summaries()
    admin.dispose()


def test_a_session_that_the_server_ends_is_replaced_and_leaves_no_hole(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with live(postgres_url) as opened:
        recorder = tt.Recorder(opened)
        items = Script("cut", 1).turns(3)
        said = [record_item(recorder, next(items)) for _ in range(20)]
        kept = sum(each.startswith("event") for each in said)
        with admin.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        kept += sum(record_item(recorder, each).startswith("event") for each in items)
    assert caplog.records == []
    with live(postgres_url) as opened:
        assert len(list(opened.recording(recorder.run_id).events())) == kept
        assert tt.check(opened, recorder.run_id).faults == ()
        assert tt.check(opened, record_script(opened, "after")).ok
    admin.dispose()
