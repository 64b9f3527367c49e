"""Tools that fail: who is told, what is recorded, and `on_error="raise"` for their development."""

import itertools
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import tokentape as tt
from tests.generation.calling_models import begun, call, events, says, status
from tokentape.generation.errors import ToolFailedWarning
from tokentape.recorder.events import RunFailed, ToolCalled, ToolReturned
from tokentape.recorder.turn_overviews import read_overviews
from tokentape.store import DatabaseStore, count_tool_errors

HERE = "tests/generation/test_tool_failures.py"
LOOK = tt.ToolCall(name="look", arguments={})
GREEDY = {"max_new_tokens": 2, "do_sample": False}


def looking(act: Callable[[], Any], **settings: Any) -> tt.ToolInterface:
    """Return tools with one tool, `look`, which does this."""

    def look() -> Any:
        """Look."""
        return act()

    return tt.ToolInterface([look], **settings)


def divide() -> float:
    return 1 / 0


def wait() -> None:
    threading.Event().wait(0.3)


@pytest.mark.parametrize(
    ("act", "error", "traceback"),
    [
        (divide, "ZeroDivisionError('division by zero')", "in divide"),
        (wait, "no answer within 0.05 s", "in wait"),
        (set, "TypeError('set is not JSON serializable')", "cannot be written as JSON"),
        (lambda: float("nan"), "ValueError('Out of range float", "cannot be written as JSON"),
    ],
)
def test_a_failed_tool_is_told_at_once_and_its_traceback_is_recorded(
    lm: tt.LoadedModel, store: DatabaseStore, act: Callable[[], Any], error: str, traceback: str
) -> None:
    with begun(lm, store, tools=looking(act, seconds_max=0.05)) as run:
        with pytest.warns(ToolFailedWarning) as told:
            run.chat("Look.", tool_calls=[LOOK], **GREEDY)
        run.chat("And now?", **GREEDY)
    (returned,) = events(store, run, ToolReturned)
    (warning,) = told

    assert re.match(r"tool look failed in turn 1 \(call_1\): ", str(warning.message))
    assert error in str(warning.message)
    assert error in returned.error
    assert traceback in returned.traceback
    assert "generation/tools" not in returned.traceback
    if traceback.startswith("in "):
        assert f'File "{HERE}", line ' in returned.traceback
        assert f"({HERE}, line " in str(warning.message)
    overviews = read_overviews(store.recording(run.run_id))
    assert [each.tool_errors for each in overviews] == [1, 0]
    assert count_tool_errors(store, [run.run_id]) == {run.run_id: 1}


def test_a_call_of_the_model_that_is_wrong_is_not_a_failure_of_the_tool(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    tools = looking(int, on_error="raise")
    forced = says(lm, call("hermes", "look", wrong=1), call("hermes", "no_tool"), "Oh.")
    with warnings.catch_warnings(), begun(lm, store, tools=tools) as run:
        warnings.simplefilter("error", ToolFailedWarning)
        run.chat("Look.", max_new_tokens=400, logits_processor=forced)

    assert [each.traceback for each in events(store, run, ToolReturned)] == ["", ""]
    assert count_tool_errors(store, [run.run_id]) == {run.run_id: 2}


def test_the_failure_of_a_tool_that_the_model_called_names_the_turn(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begun(lm, store) as run, pytest.warns(ToolFailedWarning, match=r"turn 1 \(call_1\)"):
        run.chat("Look.", max_new_tokens=200, logits_processor=says(lm, call("hermes", "fail"), ""))


def test_a_redactor_rewrites_the_traceback(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    def hide(text: str) -> str:
        return text.replace("secret", "[hidden]")

    def fail() -> None:
        raise ValueError("the secret")

    tools = looking(fail)
    with begun(lm, store, tools=tools, redactor=hide) as run, pytest.warns(ToolFailedWarning):
        run.chat("Look.", tool_calls=[LOOK], **GREEDY)
    (returned,) = events(store, run, ToolReturned)

    assert "ValueError: the [hidden]" in returned.traceback
    assert "secret" not in str(returned)


def test_a_failed_call_replays_and_runs_again_without_drift_from_another_place(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def moved() -> float:
        return divide()

    with begun(lm, store, tools=looking(divide)) as run, pytest.warns(ToolFailedWarning):
        run.chat("Look.", tool_calls=[LOOK], **GREEDY)
    report = tt.verify(store.recording(run.run_id), lm, tools=looking(moved))

    assert (report.verdict, report.tools) == (tt.Verdict.VERIFIED, ())


@pytest.mark.parametrize("act", [divide, wait, set])
def test_tools_that_raise_fail_the_run_in_order_and_it_resumes_with_a_mended_tool(
    lm: tt.LoadedModel, store: DatabaseStore, act: Callable[[], Any]
) -> None:
    tools = looking(act, seconds_max=0.05, on_error="raise")
    forced = says(lm, call("hermes", "look"), "Well.")
    error = {divide: ZeroDivisionError, wait: TimeoutError, set: TypeError}[act]
    with pytest.raises(error) as caught, begun(lm, store, tools=tools) as run:
        run.chat("Look.", max_new_tokens=100, logits_processor=forced)
    (failed,) = events(store, run, RunFailed)

    assert status(store, run) == "failed"
    assert events(store, run, ToolReturned) == []
    assert (divide.__name__ in [entry.name for entry in caught.traceback]) == (act is divide)
    assert (f"in {act.__name__}" in failed.traceback) == (act is not set)
    mended = looking(lambda: 7)
    with tt.Investigation.resume(store, run.run_id, lm, tools=mended) as resumed:
        reply = resumed.resumed_reply
    assert reply is not None
    assert [each.content for each in reply.tool_results] == ["7"]
    assert [each.call_id for each in events(store, run, ToolCalled)] == ["call_1", "call_1"]
    assert tt.rebuild(store.recording(run.run_id)).turns


def test_a_wrong_call_of_the_users_own_raises_too(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    wrong = tt.ToolCall(name="look", arguments={"at": 1})
    tools = looking(int, on_error="raise")
    run = begun(lm, store, tools=tools)
    with pytest.raises(tt.ToolError, match="no argument 'at'"), run:
        run.chat("Look.", tool_calls=[wrong], **GREEDY)
    with pytest.raises(tt.ToolError, match="'return' or 'raise', not 'ignore'"):
        looking(int, on_error="ignore")


def test_a_run_continues_after_a_raised_error_that_its_user_catches(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    tries = itertools.count()
    tools = looking(lambda: 1 / next(tries), on_error="raise")
    with begun(lm, store, tools=tools) as run:
        with pytest.raises(ZeroDivisionError):
            run.chat("Look.", tool_calls=[LOOK], **GREEDY)
        reply = run.chat("Look.", tool_calls=[LOOK], **GREEDY)

    assert [each.content for each in reply.tool_results] == ["1.0"]
    assert tt.verify(store.recording(run.run_id), lm).verdict == tt.Verdict.VERIFIED


def test_numbers_of_torch_and_numpy_are_numbers_also_as_keys() -> None:
    half = torch.tensor(0.5, dtype=torch.bfloat16)
    found = {
        "half": [half, half.half(), np.float16(0.5), np.array(0.5), torch.nn.Parameter(half)],
        "three": [torch.tensor(3), np.int8(3)],
        "true": [torch.tensor(True), np.bool_(True)],
        "keys": {np.int64(1): 1, torch.tensor(2): {np.float32(0.5): half}},
    }
    result = looking(lambda: found).call("look", {})

    assert result.content == (
        '{"half": [0.5, 0.5, 0.5, 0.5, 0.5], "three": [3, 3], "true": [true, true], '
        '"keys": {"1": 1, "2": {"0.5": 0.5}}}'
    )
    assert result.payload.decode() == result.content


def test_where_a_tool_failed_and_the_source_of_tools_are_no_difference_of_runs(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def elsewhere() -> float:
        return divide()

    runs = []
    for act in (divide, elsewhere):
        with begun(lm, store, tools=looking(act)) as run, pytest.warns(ToolFailedWarning):
            run.chat("Look.", tool_calls=[LOOK], **GREEDY)
        runs.append(store.recording(run.run_id))
    one, other = (next(events_of(each)) for each in runs)

    assert one.traceback != other.traceback
    assert tt.diff(*runs).same


def events_of(recording: tt.Recording) -> Iterator[ToolReturned]:
    found = (each.event for each in recording.events())
    return (each for each in found if isinstance(each, ToolReturned))
