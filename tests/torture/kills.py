"""Processes that record, copy, erase or upgrade, killed by SIGKILL at random moments."""

import multiprocessing
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

import tokentape as tt
from tests.postgres import own_server
from tests.store.crash import Processes, processes, record_script
from tests.store.test_kill import (
    Figures,
    kept_of,
    killed_somewhere,
    torture_client,
    torture_file,
    torture_server,
)
from tests.store.test_migrations import released_store
from tests.torture.tally import Row, Torture, run_attacks
from tokentape.store import DatabaseStore, database_url, upgrade_store

_KILLED = -9


def recorders(torture: Torture) -> Iterator[Row]:
    """Kill recorders, alone and next to another; each acknowledged event must be there."""
    chance = torture.random()
    row = Row("kill: recorder")
    figures = Figures()
    with processes(torture.folder) as started:
        for number in range(torture.count(100)):
            folder = torture.folder / str(number)
            folder.mkdir()
            with row.attempt(f"kill {number}"):
                one = torture_file(
                    folder, started, 1, concurrent=number % 4 == 3, seed=chance.randrange(2**31)
                )
                figures.acknowledged += one.acknowledged
                assert one.lost == 0, f"{one.lost} events are lost"
            shutil.rmtree(folder)
    row.remark = f"{figures.acknowledged:,} events acknowledged"
    yield row


def sealing_recorders(torture: Torture) -> Iterator[Row]:
    """Kill recorders that seal each turn into a folder, which must never be seen half."""
    chance = torture.random()
    row = Row("kill: recorder that seals each turn")
    acknowledged = 0
    with processes(torture.folder) as started:
        for number in range(torture.count(40)):
            path, sealed = torture.folder / f"{number}.db", torture.folder / f"sealed-{number}"
            with row.attempt(f"kill {number}"):
                acknowledged += _sealing_recorder(started, path, sealed, chance)
    row.remark = f"{acknowledged:,} events acknowledged"
    yield row


def _sealing_recorder(started: Processes, path: Path, sealed: Path, chance: random.Random) -> int:
    tokens = chance.choice((1, 6, 30))
    process = started.start(path, "killed", tokens=tokens, sealed=str(sealed))
    said = killed_somewhere(process, chance)
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        if not kept_of(store, said):
            return 0
        recording = store.recording(said.run_id)
        records = list(recording.records())
        if (sealed / "runs").is_dir():
            with tt.open_store(sealed) as opened:
                for summary in opened.summaries():
                    copy = list(opened.recording(summary.run_id).records())
                    assert copy == records[: len(copy)], "the folder has other events"
        if any(record.seal for record in records):
            tt.export_parquet(recording, store, sealed)
            with tt.open_store(sealed) as opened:
                assert tt.check(opened, said.run_id).ok, "the folder is not whole after an export"
    return len(said.events)


def postgresql(torture: Torture) -> Iterator[Row]:
    """Kill recorders into PostgreSQL, then the server itself."""
    chance = torture.random()
    client, server = Row("kill: recorder into PostgreSQL"), Row("kill: PostgreSQL")
    with processes(torture.folder) as started:
        with own_server() as running:
            url = make_url(running.get_uri()).set(drivername="postgresql+psycopg")
            where = url.render_as_string(hide_password=False)
            for number in range(torture.count(25)):
                with client.attempt(f"kill {number}"):
                    figures = torture_client(where, started, 1, seed=chance.randrange(2**31))
                    assert figures.lost == 0, f"{figures.lost} events are lost"
        for number in range(torture.count(10)):
            with server.attempt(f"kill {number}"):
                torture_server(started, 1, seed=chance.randrange(2**31))
    yield from (client, server)


@dataclass(frozen=True)
class Work:
    """A kind of copy or change to kill: what it does, and what must hold afterwards."""

    at_ten: int
    do: Callable[[Path, str], None]
    """Works in a folder that has `runs.db`; called in a process of its own, and once more."""
    check: Callable[[Path, str, bool], None]
    """Raises AssertionError for a wrong state; the flag says that the work has been completed."""
    released: bool = False
    """Whether `runs.db` is a store of version 0.1.0."""


def works(torture: Torture) -> Iterator[Row]:
    """Kill copies, imports, erasures and upgrades; try each again afterwards."""
    forks: Any = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["tests.torture.kills"])
    chance = torture.random()
    for name, work in WORKS.items():
        row = Row(f"kill: {name}")
        sound = torture.folder / "sound"
        run_id = _make(sound, work.released)
        seconds = _seconds(work, sound, torture.folder / "timed", run_id)
        in_time = 0
        for number in range(torture.count(work.at_ten)):
            folder = torture.folder / f"work-{number}"
            shutil.copytree(sound, folder)
            with row.attempt(f"kill {number}"):
                process = forks.Process(target=work.do, args=(folder, run_id))
                process.start()
                time.sleep(chance.uniform(0, 1.5 * seconds))
                process.kill()
                process.join()
                in_time += process.exitcode == _KILLED
                work.check(folder, run_id, process.exitcode == 0)
                work.do(folder, run_id)
                work.check(folder, run_id, True)
            shutil.rmtree(folder)
        shutil.rmtree(sound)
        row.remark = f"{in_time} killed before the end"
        yield row


def _make(folder: Path, released: bool) -> str:
    folder.mkdir()
    if released:
        path = released_store(folder, "0.1.0")
        path.rename(folder / "runs.db")
        for each in folder.glob("0.1.0.db-*"):
            each.unlink()
        return ""
    with tt.open_store(folder / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        run_id = record_script(store, "a run", turns=60, seed=3)
        record_script(store, "another", turns=2, seed=4)
        tt.pack([store.recording(run_id)], store, folder / "sound.tape")
    return run_id


def _seconds(work: Work, sound: Path, folder: Path, run_id: str) -> float:
    """Return how long the work takes without a kill, including the start of its process."""
    shutil.copytree(sound, folder)
    started = time.monotonic()
    work.do(folder, run_id)
    seconds = time.monotonic() - started
    work.check(folder, run_id, True)
    shutil.rmtree(folder)
    return seconds + 0.05


def _opened(path: Path) -> DatabaseStore:
    opened = tt.open_store(path)
    assert isinstance(opened, DatabaseStore)
    return opened


def _pack(folder: Path, run_id: str) -> None:
    with _opened(folder / "runs.db") as store:
        tt.pack([store.recording(run_id)], store, folder / "new.tape")


def _check_tape(folder: Path, run_id: str, done: bool) -> None:
    path = folder / "new.tape"
    assert path.exists() or not done, "there is no tape"
    if path.exists():
        assert path.read_bytes() == (folder / "sound.tape").read_bytes(), "the tape is not whole"


def _export(folder: Path, run_id: str) -> None:
    with _opened(folder / "runs.db") as store:
        tt.export_parquet(store.recording(run_id), store, folder / "sealed")


def _check_sealed(folder: Path, run_id: str, done: bool) -> None:
    if not (folder / "sealed" / "runs").is_dir():
        assert not done, "there is no sealed folder"
        return
    with tt.open_store(folder / "sealed") as sealed:
        runs = [each.run_id for each in sealed.summaries()]
        assert runs == [run_id] or not (runs or done), "the run is missing"
        for each in runs:
            assert not done or tt.check(sealed, each).ok, "the folder is not whole"
            _same_as_sound(folder, sealed, each)


def _lines(folder: Path, run_id: str) -> None:
    with _opened(folder / "runs.db") as store:
        tt.export_jsonl([store.recording(run_id)], store, folder / "new.jsonl")


def _check_lines(folder: Path, run_id: str, done: bool) -> None:
    path = folder / "new.jsonl"
    assert path.exists() or not done, "there are no lines"
    if path.exists():
        with tt.open_store("sqlite://") as store:
            assert isinstance(store, DatabaseStore)
            tt.import_runs(path, store)
            _same_as_sound(folder, store, run_id)


def _tables(folder: Path, run_id: str) -> None:
    with _opened(folder / "runs.db") as store:
        tt.export_csv(store, run_id, folder / "tables")


def _check_tables(folder: Path, run_id: str, done: bool) -> None:
    there = sorted(each.name for each in (folder / "tables").glob("*.csv"))
    assert len(there) == 4 or not done, f"only {there} are there"


def _import(folder: Path, run_id: str) -> None:
    with _opened(folder / "new.db") as store:
        tt.import_runs(folder / "sound.tape", store)


def _check_imported(folder: Path, run_id: str, done: bool) -> None:
    if not (folder / "new.db").exists():
        assert not done, "there is no store"
        return
    with _opened(folder / "new.db") as store:
        runs = [each.run_id for each in store.summaries()]
        assert runs == [run_id] or not (runs or done), "the run is missing"
        for each in runs:
            assert tt.check(store, each).ok
            _same_as_sound(folder, store, each)


def _erase(folder: Path, run_id: str) -> None:
    with _opened(folder / "runs.db") as store, suppress(tt.NoSuchRunError):
        store.erase(run_id)


def _check_erased(folder: Path, run_id: str, done: bool) -> None:
    with _opened(folder / "runs.db") as store:
        left = [each.run_id for each in store.summaries()]
        assert run_id not in left or not done, "the run is still there"
        for each in left:
            assert tt.check(store, each).ok
        if run_id not in left:
            try:
                store.check_not_erased(run_id)
            except tt.StoreError:
                return
            raise AssertionError("there is no tombstone")


def _upgrade(folder: Path, run_id: str) -> None:
    upgrade_store(database_url(folder / "runs.db"))


def _check_upgraded(folder: Path, run_id: str, done: bool) -> None:
    with _opened(folder / "runs.db") as store:
        runs = [each.run_id for each in store.summaries()]
        assert len(runs) > 1, "runs are missing"
        for each in runs:
            found = tt.check(store, each)
            assert not found.faults, found.faults


def _same_as_sound(folder: Path, store: Any, run_id: str) -> None:
    with tt.open_store(folder / "sound.tape") as sound:
        records = list(sound.recording(run_id).records())
    assert list(store.recording(run_id).records()) == records, "its events are not all there"


WORKS = {
    "pack": Work(25, _pack, _check_tape),
    "export to Parquet": Work(25, _export, _check_sealed),
    "export to JSON Lines": Work(20, _lines, _check_lines),
    "export to CSV": Work(20, _tables, _check_tables),
    "import": Work(25, _import, _check_imported),
    "erase": Work(25, _erase, _check_erased),
    "upgrade": Work(20, _upgrade, _check_upgraded, released=True),
}


def kills(torture: Torture) -> Iterator[Row]:
    """Kill everything that writes."""
    yield from run_attacks(torture, recorders, sealing_recorders, postgresql, works)
