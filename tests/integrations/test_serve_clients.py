"""Clients of `tokentape serve` that are many, slow, wrong, hostile, or gone."""

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

import tokentape as tt
from tokentape.store import DatabaseStore

openai: Any = pytest.importorskip("openai", reason="the extra `dev` has it")

from tests.integrations.endpoints import Endpoint, running_endpoint  # noqa: E402
from tokentape.endpoint.http_server import listen  # noqa: E402

PATH = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def endpoint(make_lm: Callable[..., tt.LoadedModel]) -> Iterator[Endpoint]:
    with tt.open_store("sqlite://") as store, running_endpoint(make_lm(), store) as endpoint:
        yield endpoint


def post(
    endpoint: Endpoint, body: Any, headers: dict[str, str] | None = None, path: str = PATH
) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON of the answer to a body."""
    place = urlsplit(endpoint.url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
    try:
        connection.request("POST", path, body, {**JSON, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def body_of(**fields: Any) -> bytes:
    message = {"role": "user", "content": "Hello"}
    return json.dumps({"model": "tiny-llama", "messages": [message], **fields}).encode()


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_eight_clients_at_once_get_what_each_gets_alone(
    endpoint: Endpoint, lm: tt.LoadedModel
) -> None:
    def talk(number: int) -> tuple[str, str]:
        first = endpoint.ask(f"I am {number}", seed=number, max_tokens=24)
        said = first.choices[0].message
        second = endpoint.ask(f"I am {number}", said, "And you?", seed=number, max_tokens=24)
        assert second.tokentape["run_id"] == first.tokentape["run_id"]
        return first.id, said.content + second.choices[0].message.content

    alone = [talk(number)[1] for number in range(8)]
    with ThreadPoolExecutor(8) as clients:
        together = list(clients.map(talk, range(8)))

    assert [text for _, text in together] == alone
    recordings = [endpoint.store.recording(id_.split("-", 1)[1][:36]) for id_, _ in together]
    assert {each.report.verdict for each in tt.verify_many(recordings, lm)} == {"verified"}


def test_a_client_that_breaks_off_ends_its_turn_and_may_ask_again(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with running_endpoint(lm, store) as endpoint, ThreadPoolExecutor(1) as other:
        asked: dict[str, Any] = {"max_tokens": 1500, "seed": 1, "logit_bias": {"2": -100}}
        beside = other.submit(endpoint.ask, "Me, too", max_tokens=60, seed=2)
        with endpoint.ask("Talk", **asked, stream=True) as stream:
            seen = [next(stream).choices[0].delta.content for _ in range(4)]
        wait_for(lambda: any("the client left" in line for line in endpoint.lines))
        left = next(line for line in endpoint.lines if "the client left" in line)
        tokens = store.recording(left.split()[1]).turns()[-1].tokens
        again = endpoint.ask("Talk", **asked | {"max_tokens": 20}, stream=True)
        repeated = "".join(each.choices[0].delta.content or "" for each in again)

        assert len(tokens) < 1500
        assert repeated.startswith("".join(each or "" for each in seen))
        assert beside.result().usage.completion_tokens > 0


def test_clients_that_leave_before_their_turn_take_no_place(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with running_endpoint(lm, store, batch=1) as endpoint:
        place = urlsplit(endpoint.url)
        request = body_of(max_tokens=400, seed=1, logit_bias={"2": -100})
        head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(request)}\r\n\r\n"
        for _ in range(70):
            with socket.create_connection((str(place.hostname), place.port)) as connection:
                connection.sendall(head.encode() + request)
        wait_for(lambda: any("the client left" in line for line in endpoint.lines))

        assert endpoint.ask("Hello", max_tokens=3).usage.completion_tokens > 0
        assert len(store.summaries()) < 70


@pytest.mark.parametrize(
    "given", ["Bearer wrong-key", "Bearer ", "Basic a-key-of-the-server", None]
)
def test_a_wrong_key_is_refused_before_the_body_is_read(
    given: str | None, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with running_endpoint(lm, store, key="a-key-of-the-server") as endpoint:
        headers = {} if given is None else {"Authorization": given}
        status, answer = post(endpoint, b"no JSON", headers)

        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert endpoint.ask("Hello").usage.completion_tokens > 0
        with pytest.raises(openai.AuthenticationError, match="a wrong key"):
            endpoint.client.with_options(api_key="a-key-of-the-servers").models.list()


def test_a_body_of_ten_megabytes_is_read_and_a_larger_one_is_not(endpoint: Endpoint) -> None:
    filled = len(body_of(prediction="", max_tokens=1))
    body = body_of(prediction="x" * (10_000_000 - filled), max_tokens=1)
    status, answer = post(endpoint, body)
    larger = body_of(prediction="x" * (10_000_001 - filled), max_tokens=1)

    assert (len(body), status, answer["usage"]["completion_tokens"]) == (10_000_000, 200, 1)
    for body in (larger, body_of(prediction="x" * 30_000_000), (piece for piece in [larger])):
        status, answer = post(endpoint, body)  # the last is sent in chunks, without a length
        assert (status, answer["error"]["code"]) == (413, "body_too_large")


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"inner": schema}}
    return schema


DEEP_TOOL = {"type": "function", "function": {"name": "a", "parameters": nested(300)}}
DEEP = b'{"model":"tiny-llama","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BODIES: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "no JSON": (b"{", {}, 400, "not JSON"),
    "no object": (b"[]", {}, 400, "must be a JSON object"),
    "empty": (b"", {}, 400, "not JSON"),
    "deep": (DEEP, {}, 400, "nested too deeply"),
    "not UTF-8": (b'{"model": "\xff"}', {}, 400, "not UTF-8: byte 11"),
    "half a pair": (body_of().replace(b"Hello", b"\\ud83d"), {}, 400, "surrogate pair"),
    "claimed length": (b"{", {"Content-Length": "9" * 15}, 413, "more than 10,000,000 bytes"),
    "deep tool": (body_of(tools=[DEEP_TOOL]), {}, 400, "nested too deeply"),
    "NUL in a name": (body_of(tokentape={"name": "a\0"}), {}, 400, "tokentape.name"),
    "long text": (body_of().replace(b"Hello", b"x" * 9_000_000), {}, 400, "do not fit"),
    "many messages": (
        body_of(messages=[{"role": "user", "content": "x"}] * 9000),
        {},
        400,
        "9,000 messages of 9,000 bytes do not fit into a context of 2,048 tokens",
    ),
    "too many values": (
        body_of(tools=[]).replace(b"[]}", b"[" + b"[]," * 3_000_000 + b"[]]}"),
        {},
        400,
        "too many values",
    ),
    "long number": (
        body_of(seed=1).replace(b": 1}", b": " + b"1" * 5000 + b"}"),
        {},
        400,
        "not JSON",
    ),
    "other type": (body_of(), {"Content-Type": "text/plain"}, 415, "application/json"),
    "other host": (body_of(), {"Host": "evil.example"}, 403, "another host"),
    "other origin": (body_of(), {"Origin": "http://evil.example"}, 403, "other sites"),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_hostile_request_gets_a_sentence(case: str, endpoint: Endpoint) -> None:
    body, headers, expected, text = BODIES[case]
    status, answer = post(endpoint, body, headers)

    assert (status, text in answer["error"]["message"]) == (expected, True)
    assert "Traceback" not in str(answer)


def test_more_requests_than_may_wait_are_told_to_come_again(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokentape.endpoint.service._WAITING_MAX", 1)
    with running_endpoint(lm, store, batch=1) as endpoint, ThreadPoolExecutor(3) as clients:
        asked: dict[str, Any] = {"max_tokens": 60, "logit_bias": {"2": -100}}
        found = list(clients.map(lambda _: post(endpoint, body_of(**asked)), range(3)))

        assert sorted(status for status, _ in found) == [200, 200, 503]
        assert [each["error"]["code"] for status, each in found if status == 503] == ["overloaded"]


def test_a_client_that_sends_no_request_is_cut_off(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokentape.endpoint.http_server._HEAD_S", 0.2)
    with running_endpoint(lm, store) as endpoint:
        place = urlsplit(endpoint.url)
        with socket.create_connection((str(place.hostname), place.port), timeout=10) as idle:
            idle.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127")
            with suppress(ConnectionResetError):
                assert idle.recv(100) == b""


def test_a_client_that_reads_nothing_is_cut_off(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def narrow(host: str, port: int) -> socket.socket:
        listening = listen(host, port)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return listening

    monkeypatch.setattr("tests.integrations.endpoints.listen", narrow)
    monkeypatch.setattr("tokentape.endpoint.http_server._STALLED_S", 0.2)
    request = body_of(max_tokens=250, logprobs=True, top_logprobs=5, logit_bias={"2": -100})
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(request)}\r\n\r\n"
    with running_endpoint(lm, store) as endpoint, socket.socket() as slow:
        place = urlsplit(endpoint.url)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((place.hostname, place.port))
        slow.sendall(head.encode() + request)
        wait_for(lambda: bool(endpoint.lines))
        time.sleep(1)
        received = b""
        with suppress(ConnectionResetError):
            while piece := slow.recv(65536):
                received += piece

        announced = re.search(rb"content-length: ([0-9]+)", received)
        assert announced is not None
        assert len(received) < int(announced[1]) / 2


def test_an_unexpected_error_is_not_shown_to_the_client(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **keywords: Any) -> Any:
        raise RuntimeError("the prompt was: a secret")

    monkeypatch.setattr("tokentape.endpoint.service.Conversations.complete", fail)
    with running_endpoint(lm, store) as endpoint:
        status, answer = post(endpoint, body_of())

        assert (status, answer["error"]["code"]) == (500, "internal_error")
        assert "secret" not in str(answer)
        assert endpoint.lines[-1].startswith(
            "a turn that had not begun: unexpected RuntimeError at"
        )
        assert "secret" not in "".join(endpoint.lines)
