"""`tokentape serve` answers the client of OpenAI, and what it answers is recorded."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tokentape as tt
from tokentape.store import DatabaseStore

openai: Any = pytest.importorskip("openai", reason="the extra `dev` has it")

from tests.integrations.endpoints import Endpoint, running_endpoint  # noqa: E402

SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def lm(make_lm: Callable[..., tt.LoadedModel]) -> tt.LoadedModel:
    return make_lm("llama")


@pytest.fixture(scope="module")
def endpoint(lm: tt.LoadedModel) -> Iterator[Endpoint]:
    with tt.open_store("sqlite://") as store, running_endpoint(lm, store) as endpoint:
        yield endpoint


def test_a_reply_is_a_turn_with_the_text_tokens_and_numbers_that_are_recorded(
    endpoint: Endpoint, lm: tt.LoadedModel
) -> None:
    reply = endpoint.ask(SYSTEM, "Hello", seed=3, logprobs=True, top_logprobs=2)
    recording = endpoint.recording(reply)
    (turn,) = recording.turns()
    entries = reply.choices[0].logprobs.content

    assert reply.choices[0].message.content == turn.reply_text
    assert reply.choices[0].finish_reason == "length"
    assert [each.logprob for each in entries] == [each.logprob for each in turn.tokens]
    assert b"".join(bytes(each.bytes) for each in entries).decode(errors="replace") == (
        turn.reply_text
    )
    assert [len(each.top_logprobs) for each in entries] == [2] * 8
    assert entries[0].top_logprobs[0].logprob == pytest.approx(turn.tokens[0].top_logprobs[0])
    assert reply.usage.completion_tokens == len(turn.tokens) == 8
    assert reply.usage.prompt_tokens == turn.cache.prompt_tokens
    assert reply.id == f"chatcmpl-{recording.run_id}-1"
    assert recording.messages()[0].content == "Be brief."
    assert tt.verify(recording, lm).verdict == "verified"


def test_a_stream_has_the_reply_that_is_not_streamed(endpoint: Endpoint) -> None:
    asked: dict[str, Any] = {"seed": 4, "logprobs": True, "max_tokens": 12}
    whole = endpoint.ask("Hello", **asked)
    usage = {"include_usage": True}
    chunks = list(endpoint.ask("Hello", **asked, stream=True, stream_options=usage))
    choices = [each.choices[0] for each in chunks if each.choices]
    entries = [entry for each in choices if each.logprobs for entry in each.logprobs.content]

    assert "".join(each.delta.content or "" for each in choices) == (
        whole.choices[0].message.content
    )
    assert entries == whole.choices[0].logprobs.content
    assert len(choices) > 3
    assert choices[0].delta.role == "assistant"
    assert choices[-1].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 12
    assert {each.id for each in chunks} == {
        f"chatcmpl-{chunks[-2].tokentape['run_id']}-{chunks[-2].tokentape['turn']}"
    }


def test_messages_that_are_sent_again_continue_the_run_from_its_cache(
    endpoint: Endpoint, lm: tt.LoadedModel
) -> None:
    first = endpoint.ask(SYSTEM, "One")
    said = first.choices[0].message
    second = endpoint.ask(SYSTEM, "One", said, "Two")
    before = first.usage.prompt_tokens + first.usage.completion_tokens

    assert second.tokentape["run_id"] == first.tokentape["run_id"]
    assert (second.tokentape["turn"], second.tokentape["continuation"]) == (2, "continued")
    assert second.usage.prompt_tokens_details.cached_tokens >= before - 1
    assert tt.verify(endpoint.recording(second), lm).verdict == "verified"


def test_a_message_that_differs_forks_the_run(endpoint: Endpoint, lm: tt.LoadedModel) -> None:
    first = endpoint.ask(SYSTEM, "Fork here")
    said = first.choices[0].message
    second = endpoint.ask(SYSTEM, "Fork here", said, "Left")
    other = endpoint.ask(SYSTEM, "Fork here", said, "Right")
    summary = endpoint.store.summary(other.tokentape["run_id"])

    assert second.tokentape["run_id"] == first.tokentape["run_id"]
    assert other.tokentape["continuation"] == "forked"
    assert summary is not None
    assert (summary.parent_run_id, summary.forked_at_turn) == (first.tokentape["run_id"], 2)
    assert tt.verify(endpoint.recording(other), lm).verdict == "verified"


def test_equal_requests_with_equal_seeds_get_equal_replies(endpoint: Endpoint) -> None:
    def texts(**fields: Any) -> set[str]:
        return {endpoint.ask("Again", **fields).choices[0].message.content for _ in range(3)}

    assert len(texts(seed=11)) == 1
    assert len(texts(temperature=0)) == 1
    assert len(texts(temperature=2.0)) == 3


def test_a_reply_ends_before_a_stop_string_and_can_be_sent_again(endpoint: Endpoint) -> None:
    text = endpoint.ask("Stop", seed=5, max_tokens=30).choices[0].message.content
    # A byte that is no character cannot be named.
    stop = next(each for each in text[8:] if each.isascii() and each not in text[:8])
    cut = text[: text.index(stop)]
    reply = endpoint.ask("Stop", seed=5, max_tokens=30, stop=[stop])
    chunks = endpoint.ask("Stop", seed=5, max_tokens=30, stop=stop, stream=True)
    again = endpoint.ask("Stop", reply.choices[0].message, "And?")

    assert reply.choices[0].message.content == cut
    assert reply.choices[0].finish_reason == "stop"
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == cut
    assert endpoint.recording(reply).turns()[0].reply_text.startswith(cut + stop)
    assert again.tokentape["continuation"] == "continued"


def test_settings_are_those_of_generate(endpoint: Endpoint) -> None:
    reply = endpoint.ask(
        "Hello",
        temperature=0.5,
        top_p=0.9,
        logit_bias={"70": -100, "71": 2.5},
        extra_body={"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1},
    )
    sampling = endpoint.recording(reply).turns()[0].started.sampling
    plain = endpoint.recording(endpoint.ask("Hello")).turns()[0].started.sampling

    assert {name: sampling[name] for name in ("do_sample", "temperature", "top_p", "top_k")} == {
        "do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 40,
    }  # fmt: skip
    assert (sampling["min_p"], sampling["repetition_penalty"]) == (0.01, 1.1)
    assert sampling["sequence_bias"] == [[[70], -100.0], [[71], 2.5]]
    assert (plain["do_sample"], plain["top_k"]) == (True, 0)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "choices": ({"n": 2}, "n", "Input should be 1"),
    "format": ({"response_format": {"type": "json_object"}}, "response_format.type", "'text'"),
    "penalty": ({"presence_penalty": 0.5}, "presence_penalty", "repetition_penalty"),
    "forced tool": (
        {"tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": "required"},
        "tool_choice",
        "not forced",
    ),
    "candidates": ({"logprobs": True, "top_logprobs": 6}, "top_logprobs", "--top-logprobs"),
    "unknown": ({"extra_body": {"temprature": 1}}, "temprature", "did you mean 'temperature'"),
    "type": ({"temperature": "hot"}, "temperature", "valid number"),
    "bias": ({"logit_bias": {"hello": 1}}, "logit_bias", "token ids from 0 to 271"),
    "two bounds": ({"max_completion_tokens": 3}, "max_tokens", "give one of them"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0",
        "reads text only",
    ),
    "too long": ({"max_tokens": 5000}, "messages", "do not fit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_the_reply_is_refused_by_the_name_of_its_field(
    case: str, endpoint: Endpoint
) -> None:
    fields, param, text = REFUSED[case]
    messages = fields.get("messages", [{"role": "user", "content": "Hello"}])
    rest = {name: each for name, each in fields.items() if name != "messages"}
    with pytest.raises(openai.BadRequestError) as refused:
        endpoint.ask(*messages, **rest)

    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert text in refused.value.message


def test_what_changes_nothing_is_recorded_or_ignored(endpoint: Endpoint) -> None:
    reply = endpoint.ask(
        "Hello",
        user="probe-7",
        metadata={"trial": "3"},
        store=True,
        service_tier="auto",
        presence_penalty=0,
        extra_body={"tokentape": {"name": "a run"}},
    )
    recording = endpoint.recording(reply)

    assert recording.started().name == "a run"
    assert recording.started().settings["metadata"] == {
        "user": "probe-7",
        "metadata": {"trial": "3"},
    }


def test_a_model_is_listed_and_another_is_not_found(endpoint: Endpoint) -> None:
    assert [each.id for each in endpoint.client.models.list()] == ["tiny-llama"]
    assert endpoint.client.models.retrieve("tiny-llama").owned_by == "tokentape"
    with pytest.raises(openai.NotFoundError, match="has the model 'tiny-llama', not 'gpt-9'"):
        endpoint.ask("Hello", model="gpt-9")
    with urllib.request.urlopen(endpoint.url.replace("/v1", "/health")) as answer:
        assert json.load(answer) == {"status": "ok"}


def test_the_fingerprint_is_that_of_the_weights(
    endpoint: Endpoint, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    with running_endpoint(make_lm("llama", seed=1), store) as other:
        assert other.ask("Hello").system_fingerprint != endpoint.ask("Hello").system_fingerprint


def test_each_reply_is_reported_without_its_text(endpoint: Endpoint) -> None:
    reply = endpoint.ask("A secret")
    line = endpoint.lines[-1]

    assert line.startswith(f"run {reply.tokentape['run_id']} turn 1 started: 8 tokens in")
    assert "secret" not in "".join(endpoint.lines)
