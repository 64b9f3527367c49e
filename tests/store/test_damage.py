"""A damaged store is refused with a clear message or reads correctly: never a wrong answer."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.store.crash import processes, record_script
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]


def live(where: str | Path) -> DatabaseStore:
    opened = tt.open_store(where)
    assert isinstance(opened, DatabaseStore)
    return opened


def records_of(opened: DatabaseStore) -> dict[str, list[Any]]:
    return {
        each.run_id: list(opened.recording(each.run_id).records()) for each in opened.summaries()
    }


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two runs, closed."""
    path = tmp_path_factory.mktemp("sound") / "runs.db"
    with live(path) as opened:
        record_script(opened, "one", turns=3, seed=1)
        record_script(opened, "two", turns=3, seed=2)
    return path


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose last recorder was killed: its newest events are in the log alone."""
    path = tmp_path_factory.mktemp("crashed") / "runs.db"
    with live(path) as opened:
        record_script(opened, "one", turns=3, seed=1)
    with processes(path.parent) as recorders:
        process = recorders.start(path, "killed")
        process.follow(seconds=30, events=60)
        process.kill()
    assert path.with_name("runs.db-wal").stat().st_size > 0
    return path


def copied(crashed: Path, folder: Path) -> Path:
    for each in crashed.parent.iterdir():
        shutil.copy(each, folder)
    return folder / crashed.name


def assert_told(cli: Cli, path: Path, *, code: int = 2) -> str:
    """The command line refuses the file in one line, and leaves it alone."""
    before = path.read_bytes()
    got, out, err = cli("list", "--store", str(path))

    assert (got, out) == (code, "")
    assert err.count("\n") == 1
    assert err.startswith("tokentape: ")
    assert "unexpected" not in err
    assert path.read_bytes() == before
    return err


def assert_beginning(path: Path, truth: dict[str, list[Any]]) -> bool:
    """Check that the store is refused or has each run's first events. Return whether it has all."""
    try:
        with tt.open_store(path, must_exist=True) as opened:
            assert isinstance(opened, DatabaseStore)
            faults = opened.verify_files("")
            held = records_of(opened)
            for run_id in held:
                faults += tt.check(opened, run_id).faults
    except tt.TokentapeError:
        return False
    if not faults:
        for run_id, records in held.items():
            assert records == truth[run_id][: len(records)]
    return held == truth


def test_a_truncated_file_is_refused_or_holds_what_was_recorded(
    sound: Path, tmp_path: Path
) -> None:
    content, path = sound.read_bytes(), tmp_path / "runs.db"
    with live(sound) as opened:
        truth = records_of(opened)
    chance = random.Random(1)
    lengths = [0, 1, 15, 16, 17, 99, 100, 512, 4096, len(content) - 1]
    lengths += [chance.randrange(len(content)) for _ in range(30)]
    for length in lengths:
        path.write_bytes(content[:length])

        assert not assert_beginning(path, truth), f"all of it is in {length} bytes"
        assert path.read_bytes() == content[:length]


def test_a_page_of_garbage_is_refused_or_found(sound: Path, tmp_path: Path) -> None:
    content, path = sound.read_bytes(), tmp_path / "runs.db"
    with live(sound) as opened:
        truth = records_of(opened)
        (size,) = opened._writer.execute("PRAGMA page_size").fetchone()
    chance = random.Random(2)
    for start in range(0, len(content), size):
        for garbage in (bytes(size), b"\xff" * size, chance.randbytes(size)):
            path.write_bytes(content[:start] + garbage + content[start + size :])
            before = path.read_bytes()
            assert_beginning(path, truth)

            assert path.read_bytes() == before


def test_an_empty_file_is_no_store_to_read(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "runs.db"
    path.touch()

    assert "empty" in assert_told(cli, path)
    with live(path) as opened:
        assert tt.check(opened, record_script(opened, "new")).ok


@pytest.mark.parametrize("length", [50, 4096, 20_000])
def test_the_command_line_tells_of_a_truncated_file(
    sound: Path, tmp_path: Path, cli: Cli, length: int
) -> None:
    path = tmp_path / "runs.db"
    path.write_bytes(sound.read_bytes()[:length])

    assert str(path) in assert_told(cli, path)


def test_a_lost_index_is_made_again(crashed: Path, tmp_path: Path) -> None:
    with live(copied(crashed, tmp_path)) as opened:
        truth = records_of(opened)
    again = tmp_path / "again"
    again.mkdir()
    path = copied(crashed, again)
    path.with_name("runs.db-shm").unlink(missing_ok=True)

    assert sorted(map(len, truth.values()))[-1] >= 60
    assert assert_beginning(path, truth)


def test_a_lost_log_is_told_where_its_index_is_left(
    crashed: Path, tmp_path: Path, cli: Cli
) -> None:
    path = copied(crashed, tmp_path)
    path.with_name("runs.db-wal").unlink()

    err = assert_told(cli, path)
    assert "runs.db-wal is missing" in err
    assert "remove runs.db-shm to continue" in err


def test_a_truncated_log_leaves_the_beginning(crashed: Path, tmp_path: Path) -> None:
    with live(copied(crashed, tmp_path)) as opened:
        truth = records_of(opened)
    log = crashed.with_name("runs.db-wal").read_bytes()
    chance = random.Random(3)
    found = set()
    for index, length in enumerate([0, 10, 32, *(chance.randrange(len(log)) for _ in range(15))]):
        folder = tmp_path / str(index)
        folder.mkdir()
        path = copied(crashed, folder)
        path.with_name("runs.db-wal").write_bytes(log[:length])
        found.add(assert_beginning(path, truth))

    assert False in found


def test_garbage_in_the_log_leaves_the_beginning(crashed: Path, tmp_path: Path) -> None:
    with live(copied(crashed, tmp_path)) as opened:
        truth = records_of(opened)
    log = crashed.with_name("runs.db-wal").read_bytes()
    chance = random.Random(4)
    for index in range(20):
        folder = tmp_path / str(index)
        folder.mkdir()
        path = copied(crashed, folder)
        at = chance.randrange(len(log) - 64)
        damaged = log[:at] + chance.randbytes(64) + log[at + 64 :]
        path.with_name("runs.db-wal").write_bytes(damaged)
        assert_beginning(path, truth)


def test_a_log_that_is_none_is_told(crashed: Path, tmp_path: Path, cli: Cli) -> None:
    path = copied(crashed, tmp_path)
    log = path.with_name("runs.db-wal")
    log.write_bytes(bytes(32) + log.read_bytes()[32:])

    assert "runs.db-wal is damaged" in assert_told(cli, path)
