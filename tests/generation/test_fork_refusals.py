"""A fork that fails at its arguments leaves no run."""

from collections.abc import Callable
from typing import Any

import pytest

import tokentape as tt
from tokentape.recorder.events import RunForked, RunStarted
from tokentape.store import DatabaseStore

CALL = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": "model.norm.weight"})
BAD_CALL = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": object()})  # type: ignore[dict-item]

BAD: dict[str, Callable[[tt.Investigation, Any], object]] = {
    "empty message": lambda run, turn: run.chat(" "),
    "long message": lambda run, turn: run.chat("x" * 9000),
    "no length": lambda run, turn: run.chat("One?", max_new_tokens=0),
    "no setting": lambda run, turn: run.chat("One?", no_such_setting=1),
    "temperature": lambda run, turn: run.chat("One?", do_sample=True, temperature=-1.0),
    "beams": lambda run, turn: run.chat("One?", num_beams=3),
    "seed": lambda run, turn: run.chat("One?", do_sample=True, seed="x"),
    "call and long message": lambda run, turn: run.chat("x" * 9000, tool_calls=[CALL]),
    "call and setting": lambda run, turn: run.chat(
        "One?", tool_calls=[CALL], temperature=-1.0, do_sample=True
    ),
    "arguments of a call": lambda run, turn: run.chat("One?", tool_calls=[BAD_CALL]),
    "retaken setting": lambda run, turn: run.retake(
        turn, changes={"do_sample": True, "temperature": "hot"}
    ),
    "retaken length": lambda run, turn: run.retake(turn, changes={"max_new_tokens": 9000}),
    "retaken message": lambda run, turn: run.retake(turn, message="", tool_calls=[CALL]),
}


@pytest.fixture
def parent(lm: tt.LoadedModel, store: DatabaseStore) -> tt.Recording:
    tools = tt.default_tools(lm)
    with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.", tools=tools) as run:
        run.chat("One?", max_new_tokens=2)
        run.chat("Two?", max_new_tokens=2)
    return store.recording(run.run_id)


@pytest.mark.parametrize("bad", BAD)
def test_a_fork_whose_first_turn_is_refused_leaves_no_run(
    bad: str, parent: tt.Recording, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    tools = tt.default_tools(lm)
    fork = tt.Investigation.fork(store, parent.run_id, lm, at_turn=2, tools=tools)
    with pytest.raises((tt.TokentapeError, TypeError)), fork:
        BAD[bad](fork, parent.turns()[1])

    assert [each.run_id for each in store.summaries()] == [parent.run_id]


def test_a_refused_turn_may_be_corrected_within_the_fork(
    parent: tt.Recording, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    tools = tt.default_tools(lm)
    with tt.Investigation.fork(store, parent.run_id, lm, at_turn=2, tools=tools) as fork:
        with pytest.raises(tt.PromptError):
            fork.chat("x" * 9000, tool_calls=[CALL])
        fork.chat("Two?", tool_calls=[CALL], max_new_tokens=2)
    kinds = [type(each.event) for each in store.recording(fork.run_id).own_events()]

    assert kinds[:2] == [RunStarted, RunForked]
    assert [turn.number for turn in store.recording(fork.run_id).turns()] == [1, 2]


def test_a_fork_without_a_turn_is_recorded_when_it_is_left(
    parent: tt.Recording, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    tools = tt.default_tools(lm)
    with tt.Investigation.fork(store, parent.run_id, lm, at_turn=2, tools=tools) as fork:
        pass

    assert store.recording(fork.run_id).forked() is not None
    assert tt.check(store, fork.run_id).ok
