"""Limits of a model's calls in a turn: their number, new tokens, the context."""

import pytest

import tokentape as tt
from tests.generation.calling_models import begun, call, events, says, several, status
from tokentape.recorder.events import (
    HistoryPruned,
    ToolCalled,
    ToolReturned,
    TurnStarted,
)
from tokentape.store import DatabaseStore


def test_the_limit_of_calls_ends_a_turn(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    forced = says(lm, *[call("hermes", name="a")] * 9)
    with begun(lm, store, tool_calls_max=3) as run:
        reply = run.chat("Go.", max_new_tokens=900, logits_processor=forced)
    assert len(reply.tool_results) == len(events(store, run, ToolReturned)) == 3
    assert (len(reply.rounds), reply.stop_reason) == (4, "eos")
    assert reply.rounds[-1].text == call("hermes", name="a")


@pytest.mark.parametrize("call_format", ["mistral", "python"])
def test_calls_written_at_once_do_not_exceed_the_limit(
    lm: tt.LoadedModel, store: DatabaseStore, call_format: str
) -> None:
    forced = says(lm, several(call_format, "a", "b", "c"), "So.")
    with begun(lm, store, call_format, tool_calls_max=2) as run:
        reply = run.chat("Go.", max_new_tokens=400, logits_processor=forced)
        more = run.chat("And?", max_new_tokens=10, logits_processor=says(lm, "", "", "Yes."))

    ran = [each for each in reply.tool_results if each.error is None]
    assert [each.content for each in ran] == ['"about a"', '"about b"']
    assert "a turn may make 2 calls" in str(reply.tool_results[2].error)
    assert (len(reply.tool_results), len(reply.rounds)) == (3, 2)
    assert reply.text.endswith("So.")
    assert more.text == "Yes."


def test_calls_of_a_model_that_may_not_call_are_ignored(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    forced = says(lm, call("hermes", name="a") + " and so on")
    with begun(lm, store, tool_calls_max=0) as run:
        reply = run.chat("Go.", max_new_tokens=200, logits_processor=forced)

    assert reply.text.endswith("</tool_call> and so on")
    assert len(reply.rounds) == 1
    assert events(store, run, ToolCalled) == []


def test_new_tokens_are_counted_over_all_rounds(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    written = call("hermes", name="a")
    forced = says(lm, written, "0123456789")
    with begun(lm, store) as run:
        reply = run.chat("Go.", max_new_tokens=len(written) + 4, logits_processor=forced)
        none_left = run.chat(
            "Go.", max_new_tokens=len(written), logits_processor=says(lm, "", "", written)
        )

    assert reply.text == f"{written}0123"
    assert (len(reply.token_ids), reply.stop_reason) == (len(written) + 4, "max_new_tokens")
    assert [each.sampling["max_new_tokens"] for each in events(store, run, TurnStarted)[:2]] == [
        len(written) + 4,
        4,
    ]
    # Nobody is left to read the result of a call that takes the last token.
    assert none_left.tool_results == ()
    assert len(none_left.token_ids) == len(written)


def test_a_result_that_does_not_fit_ends_the_turn_and_not_the_run(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    forced = says(lm, call("hermes", "ramble"), "Well.")
    with begun(lm, store, context_budget_tokens=260) as run:
        reply = run.chat("Go.", max_new_tokens=120, logits_processor=forced)
        more = run.chat("And?", max_new_tokens=10, logits_processor=says(lm, "", "Yes."))

    assert (len(reply.rounds), reply.stop_reason) == (1, "tool_call")
    assert len(reply.tool_results) == len(events(store, run, ToolReturned)) == 1
    assert more.text == "Yes."
    assert status(store, run) == "finished"


@pytest.mark.parametrize("role", ["tool", "user"])
def test_older_results_are_pruned_to_make_a_result_fit(
    lm: tt.LoadedModel, store: DatabaseStore, role: str
) -> None:
    forced = says(lm, *[call("hermes", "ramble")] * 3, "Well.")
    settings = {"context_budget_tokens": 900, "at_context_limit": "prune_tool_results"}
    with begun(lm, store, tool_result_role=role, **settings) as run:
        reply = run.chat("Go.", max_new_tokens=300, logits_processor=forced)
    recording = store.recording(run.run_id)
    pruned = events(store, run, HistoryPruned)

    assert reply.text.endswith("Well.")
    assert len(reply.tool_results) == 3
    assert {(each.turn, each.policy) for each in pruned} == {(1, "tool_results")}
    assert tt.rebuild(recording).turns[-1].prompt_ids == reply.rounds[-1].prompt.ids
    report = tt.verify(recording, lm, processors=lambda turn: forced)
    assert report.verdict == tt.Verdict.VERIFIED


@pytest.mark.parametrize("role", ["tool", "user"])
@pytest.mark.parametrize(
    ("first", "second", "parts"), [(80, 1, 2), (1, 70, 1)], ids=["a turn goes", "none is enough"]
)
def test_the_message_that_a_call_belongs_to_is_not_pruned(
    lm: tt.LoadedModel, store: DatabaseStore, first: int, second: int, parts: int, role: str
) -> None:
    settings = {"context_budget_tokens": 900, "at_context_limit": "prune_turns"}
    forced = says(lm, "", call("hermes", "ramble"))
    with begun(lm, store, tool_result_role=role, tool_calls_max=1, **settings) as run:
        run.chat("First? " * first, max_new_tokens=4)
        reply = run.chat("Second? " * second, max_new_tokens=150, logits_processor=forced)

    *_, last = (part.prompt.text for part in reply.rounds)
    assert "Second?" in last
    assert "First?" in reply.rounds[0].prompt.text
    assert len(reply.rounds) == parts
    assert [each.turn for each in events(store, run, HistoryPruned)] == [2] * (parts - 1)
