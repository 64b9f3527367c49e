"""Branches of a conversation: one recording, and no token computed twice."""

from collections.abc import Callable
from typing import Any

import pytest

import tokentape as tt
from tokentape.store import DatabaseStore

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8}


def talk(lm: tt.LoadedModel, store: DatabaseStore, **settings: Any) -> tuple[list[tt.Reply], str]:
    """Record two turns, two on a branch, and two more after the first two."""
    with tt.Investigation(
        lm, store=store, name="t", system_prompt="Be kind and brief.", **settings
    ) as run:
        replies = [run.chat(f"Question {n}?", **GREEDY) for n in (1, 2)]
        fork = run.generator.fork()
        replies += [run.chat(f"On the trunk, {n}.", **GREEDY) for n in (3, 4)]
        trunk = run.generator.switch(fork)
        replies += [run.chat(f"On the branch, {n}!", **GREEDY) for n in (3, 4)]
        run.generator.switch(trunk)
        replies += [run.chat("Back on the trunk.", **GREEDY)]
    return replies, run.run_id


@pytest.mark.parametrize("family", ["llama", "gemma3", "mamba", "qwen3-next"])
def test_both_branches_are_cached(
    family: str, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    replies, run_id = talk(make_lm(family), store)
    prompts = [turn.prompt_ids for turn in store.recording(run_id).turns()]
    ends = [(*p, *r.token_ids) for p, r in zip(prompts, replies, strict=True)]

    assert prompts[4][: len(ends[1])] == ends[1], "the branch continues after turn 2"
    assert prompts[6][: len(ends[3])] == ends[3], "and the trunk after turn 4"
    for turn, followed in ((4, 1), (5, 4), (6, 3)):
        # Only the last token of a reply was never forwarded.
        assert replies[turn].cache.reused_tokens >= len(ends[followed]) - 1


def test_the_recording_with_branches_is_replayed(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    _, run_id = talk(lm, store)
    recording = store.recording(run_id)
    reasons = [turn.started.history_reason for turn in recording.turns()]

    assert reasons == ["", "", "", "", "switched_branch", "", "switched_branch"]
    assert tt.rebuild(recording).turns == tuple(recording.turns())
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT


@pytest.mark.parametrize("history", ["exact", "template"])
def test_a_branch_equals_the_same_conversation_without_the_other(
    history: str, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    replies, _ = talk(lm, store, history=history)
    with tt.Investigation(
        lm, store=store, name="t", system_prompt="Be kind and brief.", history=history
    ) as alone:
        said = [
            alone.chat(message, **GREEDY)
            for message in ("Question 1?", "Question 2?", "On the branch, 3!", "On the branch, 4!")
        ]

    assert [each.token_ids for each in said[2:]] == [each.token_ids for each in replies[4:6]]


def test_a_conversation_cannot_branch_within_a_turn(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as run:
        run.chat("One?", **GREEDY)
        kept: list[Any] = []

        def fork_within(token_id: int, logits: Any) -> None:
            kept.append(run.generator.fork())

        run.chat("Two?", callback=fork_within, **GREEDY)
        run.generator.switch(kept[0])
        reply = run.chat("Three?", **GREEDY)
    turns = store.recording(run.run_id).turns()

    # The fork has the first turn only: the second was not finished when it was taken.
    assert "Two?" not in turns[2].prompt_text
    assert reply.cache.reused_tokens > 0
    assert tt.verify(store.recording(run.run_id), lm).verdict is tt.Verdict.VERIFIED
