"""Forks onto another model are labelled, and replays check only their own turns with it."""

from collections.abc import Callable
from typing import Any

import pytest

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tests.generation.made_runs import SETTINGS, begin, go_on
from tokentape.store import DatabaseStore


def louder(model: Any) -> None:
    model.lm_head.weight.mul_(1.5)


@pytest.fixture
def other(lm: tt.LoadedModel, altered: Callable[..., tt.LoadedModel]) -> tt.LoadedModel:
    return altered(lm, louder)


@pytest.fixture
def parent(lm: tt.LoadedModel, store: DatabaseStore) -> tt.Recording:
    with begin(lm, store) as run:
        go_on(run)
    return store.recording(run.run_id)


@pytest.mark.parametrize("at_token", [None, 4])
def test_a_fork_onto_another_model_says_so_and_its_own_turns_are_checked(
    lm: tt.LoadedModel,
    other: tt.LoadedModel,
    store: DatabaseStore,
    parent: tt.Recording,
    at_token: int | None,
) -> None:
    tools = tt.default_tools(other)
    with tt.Investigation.fork(
        store,
        parent.run_id,
        other,
        at_turn=2,
        at_token=at_token,
        tools=tools,
        other_model=True,
    ) as fork:
        fork.chat("And now?", max_new_tokens=4, **SETTINGS)
    with tt.Investigation.fork(store, fork.run_id, other, at_turn=3, tools=tools) as grandchild:
        grandchild.chat("Else?", max_new_tokens=4, **SETTINGS)
    child, later = store.recording(fork.run_id), store.recording(grandchild.run_id)
    forked, again = child.forked(), later.forked()

    assert forked is not None
    assert again is not None
    assert (forked.other_model, again.other_model) == (("weights",), ())
    assert "with another model (weights)" in forked.describe()
    for recording in (child, later):
        for replay in (tt.verify, tt.retrace, tt.regenerate):
            report = replay(recording, other)
            assert report.verdict.passes, report.reason
            assert min(each.turn for each in report.turns) == 2
        assert tt.check(store, recording.run_id).ok
        assert tt.rebuild(recording).turns[0] == parent.turns()[0]
        with pytest.raises(tt.NothingToReplayError, match="shared with its parent, which had"):
            tt.verify(recording, other, turns=[1])
    assert tt.verify(child, lm).verdict is tt.Verdict.INCOMPARABLE


def test_another_model_is_refused_unless_it_is_asked_for(
    lm: tt.LoadedModel, other: tt.LoadedModel, store: DatabaseStore, parent: tt.Recording
) -> None:
    tools = tt.default_tools(other)
    with pytest.raises(tt.ModelError, match="other weights than"):
        tt.Investigation.fork(store, parent.run_id, other, at_turn=2, tools=tools)
    with pytest.raises(tt.ModelError, match="other weights than"):
        tt.Investigation.resume(store, parent.run_id, other, tools=tools)
    stranger = tiny_model("llama", byte_tokenizer(vocabulary=300))
    with pytest.raises(tt.ModelError, match=r"another tokenizer than .*: a fork shares the ids"):
        tt.Investigation.fork(
            store,
            parent.run_id,
            stranger,
            at_turn=2,
            tools=tt.default_tools(stranger),
            other_model=True,
        )
    same = tt.default_tools(lm)
    with tt.Investigation.fork(
        store, parent.run_id, lm, at_turn=2, tools=same, other_model=True
    ) as fork:
        fork.chat("And now?", max_new_tokens=4)
    forked = store.recording(fork.run_id).forked()
    assert forked is not None
    assert forked.other_model == ()
