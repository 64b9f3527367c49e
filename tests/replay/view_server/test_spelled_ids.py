"""Ids whose texts a running run has not recorded yet: a tokenizer that is loaded meanwhile."""

import json
import threading
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest

import tokentape as tt
from tests.replay.made_family import FAILED
from tests.replay.view_server.conftest import Served
from tests.store.made_families import RESUMED
from tokentape.recorder import Recorder
from tokentape.recorder.events import RunStarted, TokensSpelled
from tokentape.replay.view_server import spelled_ids
from tokentape.replay.view_server.forks import ForkWorker, served_fields
from tokentape.replay.view_server.routes import Routes
from tokentape.replay.view_server.spelled_ids import SpelledIds, Speller
from tokentape.replay.view_server.stored_runs import StoredRuns

REPLY = {ord(each) for each in "abcdefg"} | {7}
"""The ids of the tokens of both turns and of their candidates."""


def spelled(ids: Iterable[int]) -> dict[str, str]:
    return {str(each): f"<{each}>" for each in ids}


def serve(served: Served, load: Callable[[RunStarted], Speller | None]) -> SpelledIds:
    found = SpelledIds(load)
    runs = StoredRuns(served.store, served_fields(None), spelled=found)
    served.server.answer = Routes(served.access, runs, report=served.lines.append).answer
    return found


def texts_of(document: dict[str, Any]) -> dict[int, str]:
    vocabulary = document["vocabulary"]
    return dict(zip(vocabulary["ids"], vocabulary["texts"], strict=True))


def wait_for(condition: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 20
        time.sleep(0.005)


def test_a_page_has_ids_until_the_tokenizer_is_loaded_and_texts_from_then_on(
    served: Served,
) -> None:
    may_load, loads = threading.Event(), list[str]()

    def load(started: RunStarted) -> Speller:
        loads.append(started.model)
        may_load.wait(20)
        return spelled

    found = serve(served, load)
    path = f"/api/run/{served.run_ids[0]}"
    began = time.monotonic()
    before = served.json(path)
    again = served.request(f"{path}?version={before['served']['version']}")
    assert time.monotonic() - began < 5
    assert (texts_of(before), again[0], found.is_loading) == ({}, 204, True)

    may_load.set()
    wait_for(lambda: not found.is_loading)
    after = served.json(f"{path}?version={before['served']['version']}")

    assert texts_of(after) == {each: f"<{each}>" for each in REPLY}
    assert served.request(f"{path}?version={after['served']['version']}")[0] == 204
    served.json(f"/api/run/{served.run_ids[1]}")
    assert len(loads) == 1


def test_a_recorded_text_wins_over_that_of_the_tokenizer(served: Served) -> None:
    run_id = served.run_ids[0]
    log = Recorder.resume(served.store, served.store.recording(run_id))
    log.record(RESUMED)
    log.record(TokensSpelled(turn=1, texts={"97": "recorded"}))
    found = serve(served, lambda started: spelled)
    served.json(f"/api/run/{run_id}")
    wait_for(lambda: found.changes == 1)

    texts = texts_of(served.json(f"/api/run/{run_id}"))

    assert texts == {each: f"<{each}>" for each in REPLY} | {97: "recorded"}


def test_no_tokenizer_is_loaded_for_a_run_that_has_ended(served: Served) -> None:
    run_id = served.run_ids[0]
    log = Recorder.resume(served.store, served.store.recording(run_id))
    log.record(RESUMED)
    log.record(FAILED)
    loads: list[str] = []
    serve(served, lambda started: loads.append(started.model))

    assert texts_of(served.json(f"/api/run/{run_id}")) == {}
    assert loads == []


def fail(started: RunStarted) -> None:
    raise tt.ModelError("no such tokenizer")


@pytest.mark.parametrize("load", [fail, lambda started: None])
def test_ids_stay_where_the_tokenizer_is_missing_or_fails_to_load(
    served: Served, load: Callable[[RunStarted], None]
) -> None:
    found = serve(served, load)
    path = f"/api/run/{served.run_ids[0]}"
    version = served.json(path)["served"]["version"]
    wait_for(lambda: not found.is_loading)

    assert texts_of(served.json(path)) == {}
    assert served.request(f"{path}?version={version}")[0] == 204
    assert served.lines == []


def test_an_answer_spells_so_many_ids_and_the_next_ones_the_rest(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spelled_ids, "_IDS_MAX", 3)
    found = serve(served, lambda started: spelled)
    path = f"/api/run/{served.run_ids[0]}"
    served.json(path)
    wait_for(lambda: found.changes == 1)
    sizes, version = list[int](), ""
    while (answer := served.request(f"{path}?version={version}"))[0] == 200:
        shown = json.loads(answer[2])
        version = shown["served"]["version"]
        sizes.append(len(shown["vocabulary"]["ids"]))

    assert sizes[-1] == len(REPLY)
    assert max(each - before for before, each in pairwise([0, *sizes])) == 3


def test_a_model_is_waited_for_until_it_is_loaded_or_cannot_be() -> None:
    def fail() -> Any:
        raise tt.ModelError("no such model")

    assert ForkWorker("m", lambda: 5, lambda *rest: None).wait_for_model() == 5
    assert ForkWorker("m", fail, lambda *rest: None).wait_for_model() is None
