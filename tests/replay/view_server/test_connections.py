"""Clients that are slow, rude or gone: each gets an answer or its end, and no other waits."""

import socket
import threading
import time
from contextlib import closing

import pytest

from tests.replay.view_server.conftest import Served
from tokentape.replay.view_server.server import HOST

RUDE = {
    "nothing": b"",
    "an empty line": b"\r\n\r\n",
    "binary": bytes(range(256)) + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "an odd version": b"GET / HTTP/9.9.9\r\n\r\n",
    "no path": b"GET\r\n\r\n",
    "another scheme": b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "long line": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 500 + b"\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "many fields": b"GET /?" + b"a=1&" * 500 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "null in a header": b"GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n",
    "chunks": b"POST /api/fork HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    "no length": b"POST /api/fork HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "negative": b"POST /api/fork HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "huge": b"POST /api/fork HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9" + b"9" * 5000
    + b"\r\n\r\n",
    "body ends": b"POST /api/fork HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{}",
    "head ends": b"GET / HTTP/1.1\r\nHost: loc",
}  # fmt: skip


@pytest.mark.parametrize("sent", RUDE.values(), ids=RUDE)
def test_a_malformed_request_is_refused_or_closed_in_time(
    shared: Served, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    answer = shared.raw(sent)

    assert time.monotonic() - began < 5
    assert answer == b"" or answer.startswith((b"HTTP/1.0 4", b"HTTP/1.0 50"))
    assert shared.request("/")[0] == 200
    assert shared.lines == []
    assert capfd.readouterr() == ("", "")


def test_slow_clients_do_not_keep_others_waiting(shared: Served) -> None:
    slow = [socket.create_connection((HOST, shared.server.port)) for _ in range(60)]
    try:
        for each in slow:
            each.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()

        assert shared.request("/api/runs")[0] == 200
        assert time.monotonic() - began < 3
    finally:
        for each in slow:
            each.close()


def test_a_client_that_sends_a_byte_now_and_then_is_closed_in_time(shared: Served) -> None:
    with socket.create_connection((HOST, shared.server.port), timeout=10) as client:
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - began < 8:
                client.sendall(b"X")
                time.sleep(0.1)
        assert time.monotonic() - began < 5


def test_more_connections_than_threads_are_closed_and_the_server_goes_on(shared: Served) -> None:
    many = [socket.create_connection((HOST, shared.server.port)) for _ in range(230)]
    for each in many:
        each.close()
    time.sleep(0.2)

    assert shared.request("/")[0] == 200


def test_a_client_that_leaves_before_the_answer_is_no_error(
    shared: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    cookie = shared.access.cookie.partition(";")[0]
    for _ in range(20):
        with closing(socket.create_connection((HOST, shared.server.port))) as client:
            # Closing resets the connection at once.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            head = f"GET /api/run/{shared.run_ids[0]} HTTP/1.1\r\nHost: localhost\r\n"
            client.sendall(f"{head}Cookie: {cookie}\r\n\r\n".encode())

    assert shared.request("/")[0] == 200
    assert (shared.lines, capfd.readouterr()) == ([], ("", ""))


def test_requests_at_once_get_the_same_answer(shared: Served) -> None:
    answers: list[str] = []

    def read() -> None:
        answers.append(shared.request(f"/api/run/{shared.run_ids[0]}")[2])

    threads = [threading.Thread(target=read) for _ in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(answers) == 12
    assert len(set(answers)) == 1
