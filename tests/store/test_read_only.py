"""A store where nothing can be written is read, and one in rollback mode stops no recorder."""

import os
import pickle
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.store.made_runs import begin, make_run, say, verdict_of
from tokentape.store import DatabaseStore
from tokentape.store.live import database as live_database
from tokentape.store.live.sqlite_access import Access

NOBODY = 65534


def as_nobody(work: Callable[[], Any]) -> Any:
    """Return the result of `work` in a process for which file permissions count.

    They do not for root.
    """
    if os.geteuid():
        return work()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            result = work()
        except BaseException as error:
            result = error
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(result, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        result = pickle.load(pipe)
    os.waitpid(child, 0)
    if isinstance(result, BaseException):
        raise result
    return result


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach and nobody but its owner can write to."""
    made = Path(tempfile.mkdtemp(prefix="read-only-"))
    made.chmod(0o755)
    yield made
    made.chmod(0o755)
    shutil.rmtree(made)


def close_for_writing(folder: Path) -> None:
    for each in folder.iterdir():
        each.chmod(0o444)
    folder.chmod(0o555)


def read_all(path: Path, elsewhere: Path) -> tuple[str, int, int, bool]:
    with tt.open_store(path, must_exist=True) as opened:
        assert isinstance(opened, DatabaseStore)
        (summary,) = opened.summaries()
        found = tt.check(opened, summary.run_id)
        recording = opened.recording(summary.run_id)
        tt.rebuild(recording)
        tape = tt.pack([recording], opened, elsewhere / "copy.tape")
        with tt.open_store(tape) as copy:
            same = list(copy.recording(summary.run_id).records()) == list(recording.records())
        access = opened._database.access.name
        return access, len(tt.tokens_df(opened)), found.events, found.ok and same


@pytest.fixture
def imported(tmp_path: Path) -> None:
    """Import everything that reading needs: another user may not reach this Python's files."""
    with tt.open_store(tmp_path / "warm.db") as opened:
        make_run(opened)
    read_all(tmp_path / "warm.db", tmp_path)


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_closed_store_in_a_folder_without_write_permission_is_read(
    folder: Path, mode: str
) -> None:
    path = folder / "runs.db"
    with tt.open_store(path) as opened:
        make_run(opened)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
    close_for_writing(folder)
    before = path.read_bytes()

    def work() -> Any:
        with tempfile.TemporaryDirectory() as elsewhere:
            return read_all(path, Path(elsewhere))

    access, tokens, events, is_sound = as_nobody(work)
    assert access == ("IMMUTABLE" if mode == "wal" else "READ")
    assert (tokens, is_sound) == (12, True)
    assert events > tokens
    assert path.read_bytes() == before
    assert [each.name for each in folder.iterdir()] == ["runs.db"]


@pytest.mark.usefixtures("imported")
def test_a_store_that_another_user_records_into_is_read_with_its_newest_events(
    folder: Path,
) -> None:
    path = folder / "runs.db"
    with tt.open_store(path) as opened:
        recorder = begin(opened)
        say(recorder, 1, tokens=3)
        close_for_writing(folder)

        def work() -> Any:
            with tt.open_store(path) as seen:
                assert isinstance(seen, DatabaseStore)
                return seen._database.access.name, len(tt.tokens_df(seen))

        assert as_nobody(work) == ("READ", 3)
        say(recorder, 2, tokens=3)
        assert as_nobody(work) == ("READ", 6)


def test_a_log_that_cannot_be_read_in_its_folder_is_not_left_out(folder: Path) -> None:
    path = folder / "runs.db"
    with tt.open_store(path) as opened:
        make_run(opened)
        for name in ("runs.db", "runs.db-wal"):
            shutil.copy(folder / name, folder / f"copy-{name}")
    close_for_writing(folder)
    with pytest.raises(tt.StoreError, match=r"newest events are in copy-runs\.db-wal.*Copy both"):
        as_nobody(lambda: tt.open_store(folder / "copy-runs.db"))


def test_nothing_is_written_into_a_store_that_can_only_be_read(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as opened:
        run_id = make_run(opened)
        tape = tt.pack([opened.recording(run_id)], opened, tmp_path / "run.tape")
    before = path.read_bytes()
    with tt.open_store(f"sqlite:///{path}?immutable=1") as opened:
        assert isinstance(opened, DatabaseStore)
        for write in (
            lambda: begin(opened),
            lambda: opened.put_blob("0" * 64, b""),
            lambda: opened.add_verdict(verdict_of(run_id)),
            lambda: opened.erase(run_id),
        ):
            with pytest.raises(tt.StoreError, match=r"cannot write to .* only reading"):
                write()
        # It has that run already, so there is nothing to write.
        assert [each.added for each in tt.import_runs(tape, opened)] == [False]
    assert path.read_bytes() == before


def test_a_file_that_is_written_to_while_it_is_read_without_a_lock_is_reported(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as opened:
        run_id = make_run(opened)
    with tt.open_store(f"sqlite:///{path}?immutable=1") as opened:
        records = opened.recording(run_id).records()
        next(records)
        with tt.open_store(path) as writer:
            make_run(writer)
        with pytest.raises(tt.StoreError, match="written to while it was read"):
            list(records)
        with pytest.raises(tt.StoreError, match="open it again"):
            opened.summaries()


def test_a_file_whose_writing_fails_although_it_seems_allowed_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "runs.db"
    with tt.open_store(path) as opened:
        make_run(opened)
    close_for_writing(folder)
    # As on a file system of a network, where the server decides.
    monkeypatch.setattr(os, "access", lambda *given: True)

    def work() -> Any:
        with tt.open_store(path) as seen:
            assert isinstance(seen, DatabaseStore)
            return seen._database.access

    assert as_nobody(work) is Access.IMMUTABLE


def test_an_unfinished_transaction_in_a_folder_without_write_permission_is_reported(
    folder: Path,
) -> None:
    path = folder / "runs.db"
    tt.open_store(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA cache_size=1")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE filler (text)")
        connection.execute(
            "INSERT INTO filler WITH RECURSIVE n (i) AS "
            "(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT hex(i) FROM n"
        )
        for name in ("runs.db", "runs.db-journal"):
            shutil.copy(folder / name, folder / f"cut-{name}")
    close_for_writing(folder)
    with pytest.raises(tt.StoreError, match=r"cut-runs\.db-journal"):
        as_nobody(lambda: tt.open_store(folder / "cut-runs.db").summaries())


@pytest.fixture
def copies(tmp_path: Path) -> dict[str, Path]:
    """Copies of a store, by the means of SQLite itself; some are in rollback mode."""
    with tt.open_store(tmp_path / "runs.db") as opened:
        make_run(opened)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "vacuum.db"),))
        with closing(sqlite3.connect(tmp_path / "dump.db")) as copy:
            copy.executescript("\n".join(connection.iterdump()))
        with closing(sqlite3.connect(tmp_path / "backup.db")) as copy:
            connection.backup(copy)
    return {each.stem: each for each in tmp_path.glob("*.db")}


def journal_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


@pytest.mark.parametrize("name", ["vacuum", "dump", "backup"])
def test_a_copy_by_other_means_has_a_log_again_when_it_is_opened(
    copies: dict[str, Path], name: str
) -> None:
    with tt.open_store(copies[name]) as opened:
        (summary,) = opened.summaries()
        assert tt.check(opened, summary.run_id).faults == ()
        assert journal_of(copies[name]) == "wal"
        with tt.open_store(copies[name]) as other:
            records = other.recording(summary.run_id).records()
            next(records)
            make_run(opened)
            assert len(list(records)) > 1


def test_a_reader_opens_a_store_in_rollback_mode_that_is_in_use_and_the_writer_is_refused_at_once(
    copies: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_database, "_WAL_WAIT_S", 0.05)
    path = copies["vacuum"]
    with closing(sqlite3.connect(path)) as other:
        reading = other.execute("SELECT * FROM events")
        reading.fetchone()
        with tt.open_store(path) as opened:
            assert len(opened.summaries()) == 1
            with pytest.raises(tt.StoreError, match=r"rollback mode.*close that program"):
                make_run(opened)
            assert len(opened.summaries()) == 1
            reading.close()
            make_run(opened)
            assert len(opened.summaries()) == 2
    assert journal_of(path) == "wal"
