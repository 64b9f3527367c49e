"""Tool calls that a client answers, and replies that it gives."""

from dataclasses import replace
from typing import Any

import pytest

import tokentape as tt
from tests.generation.completions.requests import (
    ADD,
    CALL,
    MALFORMED,
    SYSTEM,
    asked,
    prompt_ids,
    result,
    saying,
    user,
)
from tokentape.generation.completions.completion import Continuation, FinishReason
from tokentape.generation.completions.conversations import Conversations
from tokentape.generation.errors import UnreplayableWarning
from tokentape.recorder.chat_messages import ChatMessage, ChatToolCall
from tokentape.recorder.events import MessageAdded, ToolCalled, ToolReturned
from tokentape.store import DatabaseStore


@pytest.mark.parametrize("ids", ["recorded", "own"])
def test_a_call_is_given_to_the_client_and_its_result_opens_the_next_turn(
    conversations: Conversations, lm: tt.LoadedModel, store: DatabaseStore, ids: str
) -> None:
    with pytest.warns(UnreplayableWarning):
        called = conversations.complete(
            asked(SYSTEM, user("1 + 2?"), tools=(ADD,), settings=saying(lm, f"Wait. {CALL}"))
        )
    (call,) = called.message.tool_calls
    assert (called.finish_reason, called.message.content) == (FinishReason.TOOL_CALLS, "Wait.")
    assert (call.name, call.arguments) == ("add", {"a": 1, "b": 2})
    reply = called.message
    if ids == "own":
        call = replace(call, call_id="toolu_x")
        reply = ChatMessage(role="assistant", content="Wait.", tool_calls=(call,))
    answered = conversations.complete(
        asked(SYSTEM, user("1 + 2?"), reply, result("3", call.call_id), tools=(ADD,))
    )

    assert (answered.run_id, answered.turn) == (called.run_id, 2)
    assert answered.cache.reused_tokens >= called.prompt_tokens
    assert called.stop_reason == "client_call"
    (summary,) = store.summaries()
    assert summary.turns == 2
    recording = store.recording(called.run_id)
    events = [each.event for each in recording.events()]
    (made,) = (each for each in events if isinstance(each, ToolCalled))
    (returned,) = (each for each in events if isinstance(each, ToolReturned))
    shown = [each for each in events if isinstance(each, MessageAdded)][-1]
    assert (made.call_id, made.caller, made.turn, made.text) == ("call_1", "model", 1, CALL)
    assert made.step == len(called.tokens)
    assert returned.content == shown.content == "3"
    assert shown.tool_call_id == "call_1"
    forced = saying(lm, f"Wait. {CALL}")["logits_processor"]
    replays: Any = {"processors": lambda turn: forced if turn.number == 1 else []}
    assert str(tt.verify(recording, lm, **replays).verdict) == "verified"
    assert str(tt.retrace(recording, lm, **replays).verdict) == "exact"
    assert str(tt.regenerate(recording, lm, **replays).verdict) == "exact"
    assert tt.check(store, recording.run_id).ok


def test_another_result_of_a_call_forks_the_run_after_the_call(
    conversations: Conversations, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with pytest.warns(UnreplayableWarning):
        called = conversations.complete(
            asked(user("1 + 2?"), tools=(ADD,), settings=saying(lm, CALL))
        )
    sent = (user("1 + 2?"), called.message)
    three, four = (
        conversations.complete(asked(*sent, result(text), tools=(ADD,))) for text in ("3", "4")
    )

    assert (four.continuation, four.turn) == (Continuation.FORKED, 2)
    assert four.run_id != three.run_id
    shared, other = prompt_ids(store, three), prompt_ids(store, four)
    assert len(shared) == len(other)
    assert sum(a != b for a, b in zip(shared, other, strict=True)) == 1
    report = tt.verify(store.recording(four.run_id), lm, turns=[2])
    assert str(report.verdict) == "verified"


@pytest.mark.parametrize("client", ["leaves it out", "sends it"])
def test_a_malformed_call_is_told_and_may_be_answered(
    conversations: Conversations, lm: tt.LoadedModel, store: DatabaseStore, client: str
) -> None:
    with pytest.warns(UnreplayableWarning):
        called = conversations.complete(
            asked(user("1 + 2?"), tools=(ADD,), settings=saying(lm, MALFORMED))
        )
    (call,) = called.calls
    assert "there is no tool 'ad'" in call.error
    assert (called.message.tool_calls, called.finish_reason) == ((), FinishReason.STOP)
    assert called.message.content == MALFORMED
    reply, new = called.message, user("Go on.")
    if client == "sends it":
        sent = ChatToolCall(call_id=call.call_id, name="unknown", arguments={})
        reply = replace(reply, tool_calls=(sent,))
        new = result("There is no such tool.", call.call_id)
    further = conversations.complete(asked(user("1 + 2?"), reply, new, tools=(ADD,)))

    assert (further.run_id, further.turn) == (called.run_id, 2)
    assert tt.check(store, further.run_id).ok


def test_messages_of_assistants_that_no_run_has_are_given_texts(
    conversations: Conversations, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    call = ChatToolCall(call_id="z", name="add", arguments={"a": 1, "b": 1})
    given = (
        user("Hello?"),
        ChatMessage(role="assistant", content="Hello."),
        user("1 + 1?"),
        ChatMessage(role="assistant", content="Wait.", tool_calls=(call,)),
        result("2", "z"),
        ChatMessage(role="assistant", content="It is 2."),
        user("Sure?"),
    )
    first = conversations.complete(asked(*given, tools=(ADD,)))
    second = conversations.complete(asked(*given, first.message, user("Why?"), tools=(ADD,)))

    assert (second.run_id, second.turn) == (first.run_id, 2)
    recording = store.recording(first.run_id)
    turn = recording.turns()[0]
    assert [each.role for each in turn.messages] == [each.role for each in given]
    for text in ("Hello.", "Wait.", '"add"', "It is 2."):
        assert text in turn.prompt_text
    (called,) = (e.event for e in recording.events() if isinstance(e.event, ToolCalled))
    assert (called.caller, called.call_id) == ("experimenter", "call_1")
    assert str(tt.verify(recording, lm).verdict) == "verified"


def test_a_stop_string_is_left_out_of_the_message_which_is_recognised_without_it(
    conversations: Conversations, lm: tt.LoadedModel
) -> None:
    said = saying(lm, "One, two, three") | {"stop_strings": [", t"]}
    with pytest.warns(UnreplayableWarning):
        first = conversations.complete(asked(user("Count."), settings=said))
    second = conversations.complete(asked(user("Count."), first.message, user("Go on.")))

    assert (first.text, first.message.content) == ("One, t", "One")
    assert (second.run_id, second.turn) == (first.run_id, 2)
