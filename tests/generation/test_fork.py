"""Forks share the events of their parent and diverge at a turn."""

from typing import Any

import pytest

import tokentape as tt
from tests.generation.made_runs import SETTINGS, TURNS, begin, go_on
from tokentape.recorder.events import RunForked
from tokentape.store import DatabaseStore


def test_a_fork_shares_earlier_events_and_diverges(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        go_on(run)
    parent = store.recording(run.run_id)
    with tt.Investigation.fork(
        store, run.run_id, lm, at_turn=3, tools=tt.default_tools(lm)
    ) as fork:
        same = fork.retake(parent.turns()[2])
        other = fork.chat("Now doubt it.", max_new_tokens=6, **SETTINGS)
    child = store.recording(fork.run_id)

    assert same.token_ids == parent.turns()[2].reply_ids
    assert other.turn == 4
    assert [turn.number for turn in child.turns()] == [1, 2, 3, 4]
    assert child.turns()[:2] == parent.turns()[:2]
    assert isinstance(list(child.records())[1].kind, str)
    assert tt.verify(child, lm).verdict == tt.Verdict.VERIFIED
    assert tt.check(store, fork.run_id).ok
    assert tt.runs_df(store)["parent_run_id"].tolist()[-1] == run.run_id
    assert tt.runs_df(store)["forked_at_turn"].tolist()[-1] == 3


def test_a_fork_of_a_longer_run_takes_no_more_space(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    sizes = []
    for turns in (2, 12):
        with begin(lm, store) as run:
            for number in range(turns):
                run.chat(f"Number {number}.", max_new_tokens=16, **SETTINGS)
        with tt.Investigation.fork(
            store, run.run_id, lm, at_turn=turns + 1, tools=tt.default_tools(lm)
        ) as fork:
            fork.chat("The same.", max_new_tokens=4)
        records = list(store.recording(fork.run_id).records())
        sizes.append((len(records), sum(len(str(each.body)) for each in records)))

    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] < 1.02 * sizes[0][1]


def test_a_fork_of_a_fork_and_one_from_before_the_fork(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    tools = tt.default_tools(lm)
    with begin(lm, store) as run:
        go_on(run)
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=3, tools=tools) as child:
        child.chat("Other.", max_new_tokens=4)
        child.chat("More.", max_new_tokens=4)
    with tt.Investigation.fork(store, child.run_id, lm, at_turn=4, tools=tools) as grandchild:
        grandchild.chat("Yet another.", max_new_tokens=4)
    with tt.Investigation.fork(store, child.run_id, lm, at_turn=2, tools=tools) as early:
        early.chat("Early.", max_new_tokens=4)

    forked = [store.recording(each.run_id).forked() for each in (child, grandchild, early)]
    assert [each.parent_run_id for each in forked if each] == [
        run.run_id,
        child.run_id,
        run.run_id,
    ]
    for each in (child, grandchild, early):
        recording = store.recording(each.run_id)
        assert tt.verify(recording, lm).verdict == tt.Verdict.VERIFIED
        assert tt.check(store, each.run_id).ok
    numbers = [turn.number for turn in store.recording(grandchild.run_id).turns()]
    assert numbers == [1, 2, 3, 4]


def test_a_fork_is_packed_with_its_parents(
    lm: tt.LoadedModel, store: DatabaseStore, tmp_path: Any
) -> None:
    with begin(lm, store) as run:
        go_on(run)
    with tt.Investigation.fork(
        store, run.run_id, lm, at_turn=2, tools=tt.default_tools(lm)
    ) as fork:
        fork.chat("Other.", max_new_tokens=4)
    child = store.recording(fork.run_id)
    tape = tt.pack([child], store, tmp_path / "fork.tape")
    tt.export_jsonl([child], store, tmp_path / "fork.jsonl")
    tt.export_parquet(child, store, tmp_path / "sealed")

    for place in (tape, tmp_path / "sealed"):
        with tt.open_store(place) as sealed:
            assert sealed.recording(fork.run_id).turns() == child.turns()
            assert tt.check(sealed, fork.run_id).ok
    for copy in (tape, tmp_path / "sealed", tmp_path / "fork.jsonl"):
        with tt.open_store("sqlite://") as other:
            assert len(tt.import_runs(copy, other)) == 2
            assert other.recording(fork.run_id).turns() == child.turns()
            assert tt.check(other, fork.run_id).ok
    with pytest.raises(tt.StoreError, match="was forked"):
        store.erase(run.run_id)
    store.erase(fork.run_id)
    store.erase(run.run_id)


def test_a_fork_at_a_turn_that_is_not_there_is_refused(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        go_on(run)
    tools = tt.default_tools(lm)
    for turn in (0, len(TURNS) + 2):
        with pytest.raises(tt.PromptError, match=f"there is no turn {turn} to begin"):
            tt.Investigation.fork(store, run.run_id, lm, at_turn=turn, tools=tools)
    assert len(store.summaries()) == 1
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=1, tools=tools) as fork:
        fork.chat("From the very beginning.", max_new_tokens=4)
    kinds = [each.event for each in store.recording(fork.run_id).own_events()]
    assert isinstance(kinds[1], RunForked)


def test_a_late_fork_event_is_found_by_check(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with begin(lm, store) as run:
        go_on(run)
    events = [each.event for each in store.recording(run.run_id).events()]
    forged = tt.Recorder(store)
    itself = RunForked(
        parent_run_id=forged.run_id, parent_seq=1, parent_hash="0" * 64, at_turn=1, changes={}
    )
    for event in (*events[:2], itself):
        forged.record(event)
    forged.finish()

    assert not tt.check(store, forged.run_id).ok
    with pytest.raises(tt.RecordingError, match="has a RunForked as event 2"):
        store.recording(forged.run_id).turns()


def test_a_fork_event_with_a_wrong_turn_is_found_by_check(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    from dataclasses import replace

    from tokentape.recorder import Recorder

    tools = tt.default_tools(lm)
    with begin(lm, store) as run:
        go_on(run)
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=3, tools=tools) as fork:
        fork.chat("Other.", max_new_tokens=4)
    forked = store.recording(fork.run_id).forked()
    assert forked is not None
    forged = Recorder(store)
    forged.record(store.recording(fork.run_id).started())
    forged.record(replace(forked, at_turn=7))
    forged.finish()

    assert tt.check(store, fork.run_id).ok
    assert tt.check(store, forged.run_id).faults == ("it was forked at turn 3, but says turn 7",)
