"""Several threads record and read runs in one store at once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tokentape as tt
from tests.store.made_runs import STARTED, say
from tokentape.store import DatabaseStore, StoreError

THREADS = 16


@pytest.fixture(params=["file", "memory", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseStore]:
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    else:
        url = "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/runs.db"
    with tt.open_store(url) as store:
        assert isinstance(store, DatabaseStore)
        yield store


def at_once(act: Callable[[int], str]) -> list[str]:
    """Call a function with 0, 1 … in threads that begin together, and return its results."""
    begin = threading.Barrier(THREADS)

    def begun(number: int) -> str:
        begin.wait(20)
        return act(number)

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(begun, range(THREADS)))


def test_runs_that_are_recorded_at_once_are_whole(shared: DatabaseStore) -> None:
    def record(number: int) -> str:
        with tt.Recorder(shared) as recorder:
            recorder.record(STARTED)
            for turn in (1, 2, 3):
                say(recorder, turn, tokens=10 + number, payload=b"%d" % number)
                assert shared.recording(recorder.run_id).newest_turn() == turn
        return recorder.run_id

    run_ids = at_once(record)

    assert {each.run_id for each in shared.summaries()} == set(run_ids)
    assert {each.status for each in shared.summaries()} == {"finished"}
    for number, run_id in enumerate(run_ids):
        assert tt.check(shared, run_id).ok
        tokens = tt.tokens_df(shared, run_id, columns=["turn", "step"])
        wanted = [(turn, step) for turn in (1, 2, 3) for step in range(10 + number)]
        assert list(tokens.itertuples(index=False, name=None)) == wanted


def test_a_read_that_is_interrupted_holds_up_no_writer(shared: DatabaseStore) -> None:
    with tt.Recorder(shared) as recorder:
        recorder.record(STARTED)
        say(recorder, 1, tokens=5)
    reading = [iter(shared.recording(recorder.run_id).records()) for _ in range(THREADS)]
    if shared.where.startswith("postgresql"):
        # The pool has fewer connections: the others would wait for one.
        del reading[4:]
    firsts = {next(each).kind for each in reading}

    def record(number: int) -> str:
        with tt.Recorder(shared) as other:
            other.record(STARTED)
            say(other, 1, tokens=5)
        return other.run_id

    assert len({*at_once(record)}) == THREADS
    assert firsts == {"RunStarted"}
    assert {len(list(each)) for each in reading} == {
        len(list(shared.recording(recorder.run_id).records())) - 1
    }


def test_a_second_writer_of_a_run_is_refused_in_another_thread(shared: DatabaseStore) -> None:
    recorders = [tt.Recorder(shared, run_id="0197-the-same") for _ in range(THREADS)]

    def start(number: int) -> str:
        try:
            recorders[number].record(STARTED)
        except StoreError as error:
            return str(error)
        return "started"

    found = at_once(start)

    assert found.count("started") == 1
    assert all("a run has one writer" in each for each in found if each != "started")
    assert len(list(shared.recording("0197").records())) == 1
