"""Forks that pages start: one at a time, with a model that is loaded once."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.replay.view_server.conftest import Served
from tokentape.replay.view_server.forks import ForkPoint, ForkWorker

POINT = {"run_id": "0001", "turn": 1, "token": 2, "token_id": 7}


class Runs:
    """A model that is loaded when it is let, and forks that end when they are."""

    def __init__(self) -> None:
        self.may_load, self.may_end = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.load_error: Exception | None = None
        self.seen: list[ForkPoint] = []

    def load(self) -> str:
        self.may_load.wait(10)
        if self.load_error is not None:
            raise self.load_error
        return "model"

    def run(self, model: str, point: ForkPoint, begun: Callable[[str], None]) -> None:
        self.seen.append(point)
        begun("child")
        while not self.may_end.wait(0.01):
            pass
        if self.error is not None:
            raise self.error


@pytest.fixture
def runs() -> Iterator[Runs]:
    made = Runs()
    yield made
    made.may_load.set()
    made.may_end.set()


@pytest.fixture
def worker(runs: Runs, served: Served) -> ForkWorker[str]:
    made: ForkWorker[str] = ForkWorker("tiny", runs.load, runs.run)
    served.serve(made)
    return made


def until(state: Callable[[], Any], wanted: object) -> None:
    began = time.monotonic()
    while state() != wanted:
        assert time.monotonic() - began < 10, state()
        time.sleep(0.01)


def test_a_fork_waits_for_the_model_then_begins_and_ends(
    served: Served, runs: Runs, worker: ForkWorker[str]
) -> None:
    assert served.json("/api/runs")["served"] == {"can_fork": True, "model": "tiny"}
    status, begun = served.post("/api/fork", POINT)
    assert (status, begun["fork"]["state"]) == (202, "waiting")
    assert begun["model"] == {"name": "tiny", "state": "loading", "error": ""}

    runs.may_load.set()
    until(lambda: served.json("/api/forks")["fork"]["run_id"], "child")
    assert served.json("/api/forks")["fork"]["state"] == "running"
    status, refused = served.post("/api/fork", POINT)
    assert status == 409
    assert "another fork is running" in refused

    runs.may_end.set()
    until(lambda: served.json("/api/forks")["fork"]["state"], "finished")
    assert runs.seen == [ForkPoint(run_id="0001", turn=1, token=2, token_id=7)]
    assert served.post("/api/fork", POINT)[0] == 202


def test_the_error_of_a_fork_is_shown_and_the_next_one_starts(
    served: Served, runs: Runs, worker: ForkWorker[str]
) -> None:
    runs.error = ValueError("no such\ntoken")
    runs.may_load.set()
    runs.may_end.set()
    served.post("/api/fork", POINT)
    until(lambda: served.json("/api/forks")["fork"]["state"], "failed")

    assert served.json("/api/forks")["fork"]["error"] == "no such token"
    assert served.post("/api/fork", POINT)[0] == 202


def test_a_model_that_cannot_be_loaded_fails_the_fork_that_waits(
    served: Served, runs: Runs, worker: ForkWorker[str]
) -> None:
    runs.load_error = OSError("no such folder")
    served.post("/api/fork", POINT)
    runs.may_load.set()
    until(lambda: served.json("/api/forks")["fork"]["state"], "failed")

    status, refused = served.post("/api/fork", POINT)
    assert status == 409
    assert "no such folder" in refused
    assert runs.seen == []


def test_a_stopped_server_interrupts_the_fork(
    served: Served, runs: Runs, worker: ForkWorker[str]
) -> None:
    runs.may_load.set()
    served.post("/api/fork", POINT)
    until(lambda: served.json("/api/forks")["fork"]["run_id"], "child")
    worker.stop()

    assert not worker.is_alive
    assert worker.as_json()["fork"]["error"] == "it was interrupted: the server was stopped"


def test_without_a_model_a_fork_is_refused(served: Served) -> None:
    status, refused = served.post("/api/fork", POINT)

    assert status == 422
    assert "start it with --model" in refused["error"]
    assert served.json("/api/forks") == {"model": None, "fork": None}


@pytest.mark.parametrize(
    "body",
    [
        {}, [], "x", None, POINT | {"token": -1}, POINT | {"token": 1.5}, POINT | {"turn": True},
        POINT | {"token_id": "7"}, POINT | {"run_id": 7}, POINT | {"token_id": 10**30},
        {"run_id": "0001"},
    ],
)  # fmt: skip
def test_a_body_that_names_no_token_is_refused(
    served: Served, runs: Runs, worker: ForkWorker[str], body: object
) -> None:
    status, refused = served.post("/api/fork", body)

    assert status == 400
    assert "names no token" in refused
