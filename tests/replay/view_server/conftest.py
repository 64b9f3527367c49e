"""A server of a store with two runs, and a client that sends what it is told."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.replay.made_family import root
from tests.replay.made_talk import Said
from tokentape.replay.view_server.access import RequestAccess
from tokentape.replay.view_server.forks import ForkWorker, served_fields
from tokentape.replay.view_server.routes import Routes
from tokentape.replay.view_server.server import HOST, Limits, ViewServer
from tokentape.replay.view_server.stored_runs import StoredRuns
from tokentape.store import DatabaseStore

TURNS = (Said(asked="one", reply="abc"), Said(asked="two", reply="defg"))


@dataclass
class Served:
    """A server in a thread, and its store."""

    server: ViewServer
    access: RequestAccess
    store: DatabaseStore
    run_ids: list[str]
    lines: list[str] = field(default_factory=list)
    """What the server reported."""

    def serve(self, worker: ForkWorker[Any] | None = None) -> None:
        """Answer from now on with these forks."""
        runs = StoredRuns(self.store, served_fields(worker))
        self.server.answer = Routes(self.access, runs, worker, report=self.lines.append).answer

    def request(
        self, path: str, *, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Return the status, the headers and the body of an answer; the cookie is sent, too."""
        sent = {"Cookie": self.access.cookie.partition(";")[0]}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection(HOST, self.server.port, timeout=20)) as client:
            client.request(method, path, body, sent)
            answer = client.getresponse()
            read = answer.read().decode()
            return answer.status, dict(answer.getheaders()), read

    def json(self, path: str, **rest: Any) -> Any:
        """Return the JSON of an answer that is no error."""
        status, _, body = self.request(path, **rest)
        assert status in (200, 202), body
        return json.loads(body)

    def post(self, path: str, value: Any, **headers: str) -> tuple[int, Any]:
        """Post JSON as a page of the server does; return the status and the answer."""
        given = {"Origin": f"http://{HOST}:{self.server.port}", "Content_Type": "application/json"}
        status, _, body = self.request(
            path, method="POST", body=json.dumps(value), **(given | headers)
        )
        return status, json.loads(body) if body.startswith("{") else body

    def raw(self, sent: bytes) -> bytes:
        """Return what a connection gives that sends these bytes and no more."""
        with socket.create_connection((HOST, self.server.port), timeout=20) as client:
            try:
                client.sendall(sent)
                return b"".join(iter(lambda: client.recv(65536), b""))
            except ConnectionError:
                return b""


@contextmanager
def _serving(folder: Path) -> Iterator[Served]:
    store = tt.open_store(folder / "runs.db")
    assert isinstance(store, DatabaseStore)
    run_ids = [root(store, TURNS).recording.run_id, root(store, TURNS[:1]).recording.run_id]
    lines: list[str] = []
    limits = Limits(request_s=0.6, answer_s=5)
    with ViewServer(0, report=lines.append, limits=limits) as server:
        found = Served(server, RequestAccess(port=server.port), store, run_ids, lines)
        found.serve()
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
    store.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with _serving(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for the tests of a file, none of which changes its store."""
    with _serving(tmp_path_factory.mktemp("shared")) as found:
        yield found
