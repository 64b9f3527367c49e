"""Runs that begin with `start` or `chat`, and end with `finish`, their store, or the process."""

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

import tokentape as tt
from tests.generation.ended_processes import ENDINGS
from tokentape.recorder.events import RunFinished
from tokentape.store import DatabaseStore


def begin(lm: tt.LoadedModel, store: tt.EventLog, name: str = "t") -> tt.Investigation:
    return tt.Investigation(lm, store=store, name=name, system_prompt="Be kind.")


def status(store: DatabaseStore, run_id: str) -> str:
    summary = store.summary(run_id)
    assert summary is not None
    return summary.status


def test_chat_starts_the_run_and_finish_ends_it_once(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    run = begin(lm, store)
    run.finish()
    assert not run.is_active
    run.chat("Hi", max_new_tokens=2)
    assert run.is_active
    assert run.start() is run
    run.finish()
    run.finish()

    assert status(store, run.run_id) == "finished"
    kinds = [type(each.event).__name__ for each in store.recording(run.run_id).events()]
    assert kinds.count("RunStarted") == kinds.count("RunFinished") == 1


def test_chat_after_the_end_says_how_to_resume(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with begin(lm, store) as run:
        run.chat("Hi", max_new_tokens=2)
        run.finish()
    for again in (lambda: run.chat("And?"), run.start, run.__enter__):
        with pytest.raises(tt.TokentapeError, match=rf'resume\(store, "{run.run_id}", lm\)'):
            again()

    resumed = tt.Investigation.resume(store, run.run_id, lm)
    assert resumed.chat("And?", max_new_tokens=2).turn == 2
    resumed.finish()
    assert tt.verify(store.recording(run.run_id), lm).passes


def test_an_exception_in_a_turn_leaves_the_run_active(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    run = begin(lm, store)

    def fail(token_id: int, logits: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        run.chat("Hi", max_new_tokens=3, callback=fail)
    with pytest.raises(tt.PromptError):
        run.chat(" ")
    assert run.chat("Again", max_new_tokens=2).turn == 2
    run.finish()
    assert status(store, run.run_id) == "finished"


def test_a_run_whose_start_is_refused_can_start_later(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    run = begin(lm, store)
    lm.model.train()
    with pytest.raises(tt.ModelError):
        run.chat("Hi", max_new_tokens=2)
    lm.model.eval()
    assert run.chat("Hi", max_new_tokens=2).turn == 1
    run.finish()


def test_a_deleted_run_frees_its_cache_and_ends_when_the_next_one_starts(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    tools = tt.default_tools(lm)
    run = tt.Investigation(lm, store=store, name="a", system_prompt="Hi.", tools=tools)
    run.chat("Hi", max_new_tokens=2)
    run_id, generator = run.run_id, weakref.ref(run.generator)
    del run
    gc.collect()
    assert generator() is None
    assert status(store, run_id) == "running"
    with begin(lm, store):
        assert status(store, run_id) == "finished"


def test_two_runs_with_the_same_tools_each_see_their_own_conversation(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    tools = tt.default_tools(lm)
    look = tt.ToolCall(
        name="get_activation_statistics", arguments={"layer_name": "0", "recompute": True}
    )
    prompts = ("Hi.", "A much longer system prompt.")
    runs = [
        tt.Investigation(lm, store=store, name="a", system_prompt=each, tools=tools).start()
        for each in prompts
    ]
    ends = []
    for run in runs:
        (result,) = run.chat("Look.", tool_calls=[look], max_new_tokens=2).tool_results
        ends.append(json.loads(result.content)["positions"][1])
        run.finish()

    # The tokenizer makes one token of each byte.
    assert ends[1] - ends[0] == len(prompts[1]) - len(prompts[0])


def test_closing_a_store_ends_its_runs_also_through_a_sealing_log(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        direct = begin(lm, store)
        sealing = begin(lm, tt.SealingLog(store, tmp_path / "sealed"))
        for run in (direct, sealing):
            run.chat("Hi", max_new_tokens=2)
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        assert [status(store, run.run_id) for run in (direct, sealing)] == ["finished"] * 2


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what processes left that ended in each way."""
    folder = tmp_path_factory.mktemp("ended")
    subprocess.run(
        [sys.executable, "-m", "tests.generation.ended_processes", folder],
        check=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return folder


EXPECTED = {
    "exception": (1, "finished", "ZeroDivisionError"),
    "exit": (7, "finished", ""),
    "signal_in_a_turn": (143, "interrupted", ""),
    "signal_between_turns": (129, "interrupted", ""),
    "ctrl_c": (-2, "interrupted", "KeyboardInterrupt"),
    "store_closed_first": (0, "finished", ""),
    "forked": (0, "finished", ""),
    "turn_in_a_daemon_thread": (0, "running", ""),
    "killed": (-9, "running", ""),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_the_end_of_a_process_ends_its_run_in_order(
    name: str, ended: Path, lm: tt.LoadedModel
) -> None:
    exit_code, expected, said = EXPECTED[name]
    with tt.open_store(ended / f"{name}.db") as store:
        assert isinstance(store, DatabaseStore)
        (summary,) = store.summaries()
        last = list(store.recording(summary.run_id).events())[-1].event
        errors = (ended / f"{name}.err").read_text()

        assert (ended / f"{name}.status").read_text() == str(exit_code), errors
        assert summary.status == expected
        assert errors.count("Traceback") == bool(said), errors
        assert (said in errors) if said else not errors, errors
        assert isinstance(last, RunFinished) == (expected != "running")
        assert tt.rebuild(store.recording(summary.run_id)).turns
