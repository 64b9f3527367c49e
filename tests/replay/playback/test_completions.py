"""Requests in the form of OpenAI's chat completions, answered from a tape."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import tokentape as tt
from tests.replay.playback.conftest import QUESTIONS, Recorded

SAMPLED = {"temperature": 0.8, "max_tokens": 6}


def client(tape: tt.Playback, system: str, *questions: str) -> list[dict[str, Any]]:
    """An application that runs the tools that the model calls, and returns all answers."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    answers = []
    for number, question in enumerate(questions):
        messages.append({"role": "user", "content": question})
        while True:
            given = SAMPLED if number else {"model": "lakes-1"}
            answers.append(tape.complete(messages, **given))
            message = answers[-1]["choices"][0]["message"]
            messages.append(message)
            for call in message.get("tool_calls", ()):
                lake = json.loads(call["function"]["arguments"])["lake"]
                result = {"role": "tool", "tool_call_id": call["id"]}
                messages.append(result | {"content": str({"Baikal": 1642}[lake])})
            if not message.get("tool_calls"):
                break
    return answers


@pytest.fixture
def system(recorded: Recorded) -> str:
    with tt.open_store(recorded.tape) as store:
        return store.recording(recorded.run_id).messages()[0].content


def test_each_request_is_answered_by_its_round(recorded: Recorded, system: str) -> None:
    with tt.playback(recorded.tape) as tape:
        one, two, three = client(tape, system, *QUESTIONS[:2])
        unused = tape.unused_turns()
    choice = one["choices"][0]
    first, second = recorded.replies[0].rounds

    assert one["object"] == "chat.completion"
    assert one["model"] == "lakes-1"
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "depth"
    assert (choice["token_ids"], one["prompt_token_ids"]) == (
        list(first.token_ids),
        list(first.prompt.ids),
    )
    assert two["choices"][0]["message"]["content"] == second.text
    assert two["choices"][0]["finish_reason"] == "stop"
    assert three["choices"][0]["finish_reason"] == "length"
    assert three["usage"]["completion_tokens"] == 6
    assert three["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert unused == [(recorded.run_id, 3)]


def test_log_probabilities_are_those_of_the_sampled_token_and_the_top_k(
    recorded: Recorded, system: str
) -> None:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": QUESTIONS[0]}]
    with tt.playback(recorded.tape) as tape:
        asked = tape.complete(messages, logprobs=True, top_logprobs=2)
    with tt.playback(recorded.tape) as tape:
        without = tape.complete(messages, logprobs=False)
    with tt.open_store(recorded.tape) as store:
        tokens = tt.tokens_df(store, recorded.run_id, turns=1)
    content = asked["choices"][0]["logprobs"]["content"]
    text = b"".join(bytes(each["bytes"]) for each in content).decode()

    assert without["choices"][0]["logprobs"] is None
    assert text == recorded.replies[0].rounds[0].text
    assert {len(each["top_logprobs"]) for each in content} == {2}
    for entry, logprob in zip(content, tokens["logprob"], strict=False):
        assert math.isclose(entry["logprob"], logprob, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("index", "change", "says_so"),
    [
        (0, {"content": "You answer."}, "turn 2, round 1: messages[0], the system prompt"),
        (1, {"content": "Which lake is the oldest?"}, "messages[1], the user's message"),
        (2, {"content": "I know."}, "messages[2], the model's reply is not the recorded one"),
        (2, {"tool_calls": []}, "messages[2], its tool calls: recorded depth"),
        (3, {"content": "1643"}, "recorded '2'"),
        (3, {"tool_call_id": "call_9"}, "its tool_call_id: recorded 'call_1', now 'call_9'"),
        (5, {"content": "How deep?"}, "messages[5], the user's message"),
        (5, {"role": "system"}, "messages[5], its role: recorded user, now system"),
    ],
)
def test_a_message_that_differs_fails_and_says_which(
    recorded: Recorded, system: str, index: int, change: dict[str, Any], says_so: str
) -> None:
    with tt.playback(recorded.tape) as tape:
        one, two = client(tape, system, QUESTIONS[0])
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": QUESTIONS[0]},
            one["choices"][0]["message"],
            {"role": "tool", "tool_call_id": "call_1", "content": "1642"},
            two["choices"][0]["message"],
            {"role": "user", "content": QUESTIONS[1]},
        ]
        messages[index] = {**messages[index], **change}
        with pytest.raises(tt.PlaybackMismatchError) as caught:
            tape.complete(messages, **SAMPLED)

    assert says_so in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says_so"),
    [
        ({"temperature": 0.7}, "the setting temperature: recorded 0.8, now 0.7"),
        ({"temperature": 0}, "the setting do_sample: recorded True, now False"),
        ({"max_completion_tokens": 5}, "the setting max_new_tokens: recorded 6, now 5"),
        ({"seed": 1}, "the setting seed"),
        ({"stop": "."}, "the setting stop_strings: recorded not there, now ['.']"),
        (
            {"tools": [{"type": "function", "function": {"name": "area"}}]},
            "the tools: recorded depth, now area",
        ),
    ],
)
def test_a_parameter_that_differs_fails(
    recorded: Recorded, system: str, given: dict[str, Any], says_so: str
) -> None:
    with tt.playback(recorded.tape) as tape:
        one, two = client(tape, system, QUESTIONS[0])
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": QUESTIONS[0]},
            one["choices"][0]["message"],
            {"role": "tool", "tool_call_id": "call_1", "content": "1642"},
            two["choices"][0]["message"],
            {"role": "user", "content": QUESTIONS[1]},
        ]
        with pytest.raises(tt.PlaybackMismatchError) as caught:
            tape.complete(messages, **given)

    assert says_so in str(caught.value)


def test_parallel_requests_find_their_rounds_whatever_their_order(
    lm: tt.LoadedModel, tmp_path: Any
) -> None:
    questions = [f"What of {number}?" for number in range(6)]
    told = {}
    with tt.open_store("sqlite://") as store:
        for question in questions:
            with tt.Investigation(lm, store=store, name="q", system_prompt="Be kind.") as run:
                told[question] = run.chat(question, max_new_tokens=3).text
        runs = [store.recording(each.run_id) for each in store.summaries()]
        packed = tt.pack(runs, store, tmp_path / "six.tape")
    with tt.playback(packed) as tape, ThreadPoolExecutor(4) as pool:

        def ask(question: str) -> str:
            messages = [{"role": "system", "content": "Be kind."}]
            answer = tape.complete([*messages, {"role": "user", "content": question}])
            return str(answer["choices"][0]["message"]["content"])

        answers = list(pool.map(ask, reversed(questions)))
        tape.check_all_used()
        with pytest.raises(tt.PlaybackMismatchError, match="one request more"):
            ask(questions[0])

    assert answers == [told[each] for each in reversed(questions)]


def test_warn_answers_with_the_round_that_agrees_longest(recorded: Recorded, system: str) -> None:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "Which?"}]
    with (
        tt.playback(recorded.tape, mode="warn") as tape,
        pytest.warns(UserWarning, match="the user's message is not the recorded one"),
    ):
        answer = tape.complete(messages)

    assert answer["choices"][0]["message"]["content"] == "Let me see."


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"stream": True}, "cannot follow stream=True"),
        ({"n": 2}, "cannot follow n=2"),
        ({"temprature": 1}, "no parameter 'temprature'.*did you mean 'temperature'"),
    ],
)
def test_requests_that_no_tape_answers_are_refused(
    recorded: Recorded, given: dict[str, Any], why: str
) -> None:
    with tt.playback(recorded.tape) as tape, pytest.raises(tt.ReplayError, match=why):
        tape.complete([{"role": "user", "content": "Hi"}], **given)


def test_tokens_without_a_recorded_text_are_named_by_their_ids() -> None:
    with tt.open_store("tests/recordings/0.1.0.tape") as store:
        run = next(each for each in store.summaries() if each.name == "failure")
        messages = store.recording(run.run_id).conversation()[:2]
    with tt.playback("tests/recordings/0.1.0.tape", run=run.run_id) as tape:
        content = tape.complete(messages)["choices"][0]["logprobs"]["content"]

    assert all(each["token"].startswith("token_id:") for each in content)
    assert {each["bytes"] for each in content} == {None}
