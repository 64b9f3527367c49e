"""Conversations whose messages a client sends whole each time."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

import tokentape as tt
from tests.generation.completions.requests import (
    ADD,
    SETTINGS,
    SYSTEM,
    asked,
    result,
    user,
)
from tokentape.generation.completions.completion import Completion, Continuation, FinishReason
from tokentape.generation.completions.conversations import Conversations
from tokentape.generation.errors import PromptTooLongError
from tokentape.recorder.chat_messages import ChatMessage
from tokentape.store import DatabaseStore


def test_messages_that_are_sent_again_continue_the_run_with_its_exact_tokens(
    conversations: Conversations, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    first = conversations.complete(asked(SYSTEM, user("One?")))
    sent = (SYSTEM, user("One?"), first.message, user("Two?"))
    second = conversations.complete(asked(*sent))
    third = conversations.complete(asked(*sent, second.message, user("Three?")))
    conversations.close()

    assert [each.continuation for each in (first, second, third)] == [
        Continuation.STARTED,
        Continuation.CONTINUED,
        Continuation.CONTINUED,
    ]
    assert {first.run_id} == {second.run_id, third.run_id}
    (summary,) = store.summaries()
    assert (summary.status, summary.turns) == ("finished", 3)
    turns = store.recording(first.run_id).turns()
    replied = (*turns[0].prompt_ids, *turns[0].reply_ids)
    assert turns[1].prompt_ids[: len(replied)] == replied
    assert third.cache.reused_tokens >= second.prompt_tokens
    assert [each.token_id for each in third.tokens] == list(turns[2].reply_ids)
    assert "".join(third.pieces).startswith(third.text)
    assert str(tt.verify(store.recording(first.run_id), lm).verdict) == "verified"


def test_equal_requests_with_equal_seeds_get_equal_replies(conversations: Conversations) -> None:
    first = conversations.complete(asked(SYSTEM, user("One?")))
    sent = (SYSTEM, user("One?"), first.message, user("Two?"))
    one, again = (conversations.complete(asked(*sent)) for _ in range(2))
    other = conversations.complete(asked(*sent, seed=4))
    drawn = [conversations.complete(asked(*sent, seed=None)).text for _ in range(3)]

    assert conversations.complete(asked(SYSTEM, user("One?"))).text == first.text
    assert again.text == one.text != other.text
    assert (again.continuation, again.turn) == (Continuation.FORKED, 2)
    assert len(set(drawn)) == 3


def test_a_message_that_differs_forks_the_run_before_its_turn(
    conversations: Conversations, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    sent: tuple[ChatMessage, ...] = (SYSTEM,)
    for text in ("One?", "Two?", "Three?"):
        done = conversations.complete(asked(*sent, user(text)))
        sent = (*sent, user(text), done.message)
    changed = (*sent[:3], user("Other?"))
    forked = conversations.complete(asked(*changed))
    further = conversations.complete(asked(*changed, forked.message, user("More?")))

    assert (forked.continuation, forked.turn) == (Continuation.FORKED, 2)
    assert (further.continuation, further.run_id) == (Continuation.CONTINUED, forked.run_id)
    recording = store.recording(forked.run_id)
    assert [each.run_id for each in recording.lineage()] == [done.run_id]
    assert str(tt.verify(recording, lm).verdict) == "verified"
    again = conversations.complete(asked(*sent, user("Four?")))
    assert (again.run_id, again.turn) == (done.run_id, 4)


class Gone(Exception):
    """A client that does not listen any more."""


def leaving_after(tokens: int) -> Any:
    heard: list[str] = []

    def listen(event: Any, piece: str) -> None:
        heard.append(piece)
        if len(heard) == tokens:
            raise Gone

    return listen


def test_a_listener_hears_each_token_and_ends_the_turn_by_an_exception(
    conversations: Conversations, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    whole = conversations.complete(asked(user("One?"), session="whole"))
    sent = (user("One?"), whole.message, user("Two?"))
    due = conversations.complete(asked(*sent, session="whole"))

    with pytest.raises(Gone):
        conversations.complete(asked(user("One?"), session="left"), on_token=leaving_after(2))
    first = conversations.complete(asked(user("One?"), session="left"))
    for _ in range(2):
        with pytest.raises(Gone):
            conversations.complete(asked(*sent, session="left"), on_token=leaving_after(2))
    second = conversations.complete(asked(*sent, session="left"))
    forked = conversations.complete(asked(*sent, session="left"))
    conversations.close()

    assert (first.text, second.text, forked.text) == (whole.text, due.text, due.text)
    assert (second.run_id, second.turn) == (first.run_id, 4)
    assert (forked.continuation, forked.turn) == (Continuation.FORKED, 2)
    assert {each.run_id: each.status for each in store.summaries()}[second.run_id] == "finished"
    for done in (second, forked):
        assert str(tt.verify(store.recording(done.run_id), lm).verdict) == "verified"


def test_an_interrupted_run_ends_as_such_and_its_turn_can_be_resumed(
    conversations: Conversations, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def interrupt(event: object, piece: str) -> None:
        raise KeyboardInterrupt

    runs: list[str] = []
    first = conversations.complete(asked(user("One?")), on_run=runs.append)
    sent = (user("One?"), first.message, user("Two?"))
    with pytest.raises(KeyboardInterrupt):
        conversations.complete(asked(*sent), on_run=runs.append, on_token=interrupt)
    conversations.close()
    (summary,) = store.summaries()

    assert runs == [first.run_id] * 2
    assert summary.status == "interrupted"
    with tt.Investigation.resume(store, first.run_id, lm) as resumed:
        assert resumed.resumed_reply is not None
        assert len(resumed.resumed_reply.token_ids) == 6


def test_the_listener_hears_what_the_reply_says(conversations: Conversations) -> None:
    heard: list[tuple[int, str]] = []
    done = conversations.complete(
        asked(user("One?")), on_token=lambda event, piece: heard.append((event.token_id, piece))
    )

    assert [token_id for token_id, _ in heard] == [each.token_id for each in done.tokens]
    assert done.text.startswith("".join(piece for _, piece in heard))


def test_the_listener_hears_no_token_that_ends_the_reply_and_looks_like_text(
    conversations: Conversations, lm: tt.LoadedModel
) -> None:
    whole = conversations.complete(asked(user("One?")))
    last = whole.tokens[4].token_id
    lm.model.generation_config.eos_token_id = [2, last]
    pieces: list[str] = []
    done = conversations.complete(
        asked(user("One?")), on_token=lambda event, piece: pieces.append(piece)
    )

    assert (done.stop_reason, done.tokens[-1].token_id) == ("eos", last)
    assert done.text.startswith("".join(pieces))


@pytest.mark.parametrize("limits", [{"open_max": 1}, {"cache_bytes": 200_000}])
def test_a_run_that_made_room_for_others_is_resumed(
    lm: tt.LoadedModel, store: DatabaseStore, limits: dict[str, int]
) -> None:
    with Conversations(lm, store) as roomy, Conversations(lm, store, **limits) as narrow:
        replies: list[list[Completion]] = []
        for conversations in (roomy, narrow):
            sent: dict[str, tuple[ChatMessage, ...]] = {"a": (), "b": ()}
            done: list[Completion] = []
            for text in ("One?", "Two?"):
                for session in sent:
                    request = asked(*sent[session], user(text), session=session)
                    done.append(conversations.complete(request))
                    sent[session] = (*request.messages, done[-1].message)
            replies.append(done)

    assert [each.text for each in replies[0]] == [each.text for each in replies[1]]
    assert replies[1][2].run_id == replies[1][0].run_id
    assert [each.cache.reused_tokens > 0 for each in replies[0][2:]] == [True, True]
    assert [each.cache.reused_tokens for each in replies[1][2:]] == [0, 0]
    assert [e.status for e in store.summaries()] == ["finished"] * 4
    for each in replies[1]:
        assert tt.check(store, each.run_id).ok


def test_sessions_do_not_continue_each_others_runs(conversations: Conversations) -> None:
    first = conversations.complete(asked(user("One?"), session="a"))
    sent = (user("One?"), first.message, user("Two?"))
    other = conversations.complete(asked(*sent, session="b"))
    conversations.end_session("a")
    again = conversations.complete(asked(*sent, session="a"))

    assert other.run_id != first.run_id == again.run_id


def test_eight_clients_at_once_get_the_tokens_that_they_get_alone(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    def talk(conversations: Conversations, number: int) -> list[str]:
        sent: tuple[ChatMessage, ...] = (SYSTEM,)
        texts = []
        for text in ("One?", f"And {number}?"):
            done = conversations.complete(asked(*sent, user(text), seed=number))
            sent = (*sent, user(text), done.message)
            texts.append(done.text)
        return texts

    with Conversations(lm, store) as alone:
        due = [talk(alone, number) for number in range(8)]
    with Conversations(lm, store) as together, tt.Batch(lm, size=8) as batch:
        jobs = [batch.start(talk, together, number) for number in range(8)]
        assert [job.result() for job in jobs] == due


def test_one_request_at_two_times_at_once_makes_two_runs(
    conversations: Conversations, lm: tt.LoadedModel
) -> None:
    first = conversations.complete(asked(user("One?")))
    sent = asked(user("One?"), first.message, user("Two?"))
    began = threading.Event()
    with tt.Batch(lm, size=2) as batch:
        jobs = [batch.start(conversations.complete, sent, on_token=lambda *_: began.set())]
        began.wait(60)
        jobs.append(batch.start(conversations.complete, sent))
    slow, quick = (job.result() for job in jobs)

    assert slow.text == quick.text
    assert slow.run_id == first.run_id != quick.run_id
    assert quick.continuation is Continuation.FORKED


@pytest.mark.parametrize(
    ("messages", "tools", "said"),
    [
        ((), (), "no message to reply to"),
        ((SYSTEM,), (), "no message to reply to"),
        ((user("One?"), ChatMessage(role="assistant", content="1")), (), "the assistant's own"),
        ((user("\ud800"),), (), r"messages\[0\] has a lone surrogate"),
        ((user("One?"), result("3", "x")), (), "'x' follows no call"),
        ((user("x" * 100_000),), (), "do not fit"),
        ((user("One?"),), ({"description": "?"},), r"tools\[0\] has no name"),
        ((user("One?"),), (ADD, ADD), "two tools are called 'add'"),
        ((user("One?"),), ({"name": "a", "parameters": []},), None),
        ((user("One?"),), ({"name": "a", "parameters": 7},), "are no JSON schema"),
        ((user("One?"),), ({"name": "a", "parameters": {"properties": 7}},), "no object"),
        (
            (user("One?"),),
            ({"name": "a", "parameters": {"properties": {"b": 7}}},),
            "are no JSON schema",
        ),
    ],
)
def test_what_no_reply_can_be_given_to_is_refused_in_one_line(
    conversations: Conversations,
    store: DatabaseStore,
    messages: Sequence[ChatMessage],
    tools: Sequence[dict[str, Any]],
    said: str | None,
) -> None:
    request = asked(*messages, tools=tuple(tools))
    if said is None:
        assert conversations.complete(request).turn == 1
        return
    with pytest.raises(tt.TokentapeError, match=said):
        conversations.complete(request)

    assert all(each.turns == 0 for each in store.summaries())


def test_a_closed_object_refuses_requests(conversations: Conversations) -> None:
    conversations.close()

    with pytest.raises(tt.TokentapeError, match="closed"):
        conversations.complete(asked(user("One?")))


def test_a_reply_may_be_shortened_to_the_room_of_the_context(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    endless = SETTINGS | {
        "max_new_tokens": 20,
        "sequence_bias": [[[lm.tokenizer.eos_token_id], -1e3]],
    }
    request = asked(SYSTEM, user("One?"), settings=endless)
    with Conversations(lm, store) as conversations:
        prompt_tokens = conversations.complete(request).prompt_tokens

    with Conversations(lm, store, context_tokens=prompt_tokens + 7) as conversations:
        with pytest.raises(PromptTooLongError, match="do not fit"):
            conversations.complete(request)
        short = conversations.complete(replace(request, fit_context=True))
        assert len(short.tokens) == 7
        assert short.finish_reason is FinishReason.LENGTH
        again = asked(SYSTEM, user("One?"), short.message, user("Two?"), settings=endless)
        with pytest.raises(PromptTooLongError, match="do not fit"):
            conversations.complete(replace(again, fit_context=True))
    (turn,) = store.recording(short.run_id).turns()
    assert turn.started.sampling["max_new_tokens"] == 7
