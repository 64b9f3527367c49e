"""A PostgreSQL server by way of PgBouncer in transaction mode, whose clients share its sessions."""

import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

import tokentape as tt
from tests.store.crash import Processes, processes, record_script
from tests.store.test_fleet import record_across_restarts, restart, server  # noqa: F401
from tokentape.store import DatabaseStore, StoredVerdict

PGBOUNCER = shutil.which(
    "pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
)
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")

SETTINGS = """
[databases]
* = host={host} port=5432 user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 200
server_login_retry = 1
"""


def free_port() -> int:
    """Return a port below those that the system gives to clients.

    A client that tries to reach one of these may be given the same port, and reaches itself.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Pooler:
    """A PgBouncer in front of a server of the tests."""

    def __init__(self, database: URL, *, sessions: int) -> None:
        self.port = free_port()
        # PgBouncer does not run as root, and nobody else may read the folders of a test.
        self._folder = Path(tempfile.mkdtemp(prefix="tokentape-pooler-"))
        self._folder.chmod(0o755)
        self._settings = self._folder / "pgbouncer.ini"
        host = database.query["host"]
        self._settings.write_text(SETTINGS.format(host=host, port=self.port, sessions=sessions))
        self._user = "pgserver" if os.geteuid() == 0 else None
        self.where = database.set(host="127.0.0.1", port=self.port, query={}).render_as_string(
            hide_password=False
        )
        self.start()

    def start(self) -> None:
        assert PGBOUNCER is not None
        self._process = subprocess.Popen(
            [PGBOUNCER, "-q", str(self._settings)],
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(100):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.1)
        raise AssertionError(f"pgbouncer ended with {self._process.poll()}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def restart(self) -> None:
        self.kill()
        time.sleep(0.5)
        self.start()


@pytest.fixture
def pooler(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[Pooler]:
    """Start a pooler with as many sessions of the server as the test says."""
    started = Pooler(make_url(postgres_url), sessions=request.param)
    yield started
    started.end()


def sessions_of(url: str) -> int:
    """Return how many sessions the server has in a database, but for the one that asks."""
    engine = create_engine(url)
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with engine.connect() as connection:
        found = connection.execute(text(query)).scalar_one()
    engine.dispose()
    return int(found)


@pytest.mark.parametrize("pooler", [2], indirect=True)
def test_a_store_works_whole_through_a_pooler(pooler: Pooler, postgres_url: str) -> None:
    with tt.open_store(pooler.where) as store, tt.open_store(postgres_url) as direct:
        assert isinstance(store, DatabaseStore)
        run_id = record_script(store, "pooled", turns=3)
        gone = record_script(store, "gone")
        verdict = StoredVerdict(
            run_id=run_id, at_us=1, replay="verify", verdict="verified", report={}
        )
        store.add_verdict(verdict)
        store.tag(run_id, "pooled")
        assert store.erase(gone).run_id == gone

        assert tt.check(store, run_id).ok
        assert list(store.recording(run_id).records()) == list(direct.recording(run_id).records())
        assert store.verdicts(run_id) == [verdict]
        assert tt.tokens_df(store, run_id).equals(tt.tokens_df(direct, run_id))
        assert [each.run_id for each in store.summaries(tag="pooled")] == [run_id]
        session = store._writer.driver_connection
        assert session.execute("SHOW synchronous_commit").fetchone() == ("on",)
        assert session.execute("SELECT * FROM pg_prepared_statements").fetchall() == []


# A recorder that held one session while it waits for another would stop them all.
@pytest.mark.parametrize("pooler", [1], indirect=True)
def test_sixteen_recorders_share_one_session(pooler: Pooler, postgres_url: str) -> None:
    tt.open_store(pooler.where).close()

    def record(number: int) -> str:
        with tt.open_store(pooler.where) as store:
            assert isinstance(store, DatabaseStore)
            all_open.wait(60)
            return record_script(store, f"{number}", turns=3, seed=number)

    all_open = threading.Barrier(16, lambda: sessions.append(sessions_of(postgres_url)))
    sessions: list[int] = []
    with ThreadPoolExecutor(16) as threads:
        run_ids = list(threads.map(record, range(16)))
    assert sessions[0] <= 1
    with tt.open_store(postgres_url) as direct:
        assert {each.status for each in direct.summaries()} == {"finished"}
        assert all(tt.check(direct, each).ok for each in run_ids)


@pytest.fixture(scope="module")
def recorders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(tmp_path_factory.mktemp("pipes")) as started_here:
        yield started_here


def test_nothing_acknowledged_is_lost_when_the_server_or_the_pooler_restarts(
    server: tuple[Any, URL],  # noqa: F811
    recorders: Processes,
    tmp_path: Path,
) -> None:
    own, url = server
    pooler = Pooler(url, sessions=1)
    # What is read in the end is read from the server itself.
    direct = url.render_as_string(hide_password=False)
    try:
        restarts = [pooler.restart, partial(restart, own, "kill")]
        told = record_across_restarts(
            pooler.where, recorders, tmp_path, restarts, count=4, read_from=direct
        )
    finally:
        pooler.end()

    assert all("is not reachable: waiting since 20" in each for each in told)
    assert all("is reachable again after" in each for each in told)
