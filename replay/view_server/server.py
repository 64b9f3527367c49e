"""The HTTP server: connections, their limits, and the reading of a request."""

import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

from tokentape.replay.view_server.messages import Answer, RefusedError, Request

HOST = "127.0.0.1"
_CONNECTIONS_MAX = 200
_HEAD_BYTES_MAX = 16 * 1024
_BODY_BYTES_MAX = 16 * 1024
_QUERY_FIELDS_MAX = 40
_CHUNK_BYTES = 4096
_FIXED_HEADERS = {
    # Nothing of a recording is left in the browser's cache.
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a client may take, in seconds."""

    request_s: float = 5.0
    """From the connection to the last byte of the request, however it is spread."""
    answer_s: float = 60.0
    """For the client to read the answer."""


class ViewServer(ThreadingHTTPServer):
    """A server on 127.0.0.1 with a thread for each connection, and one request for each."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        port: int,
        *,
        report: Callable[[str], None] = lambda line: None,
        limits: Limits | None = None,
    ) -> None:
        """Listen on a port, or on a free one for 0. Raise OSError if it is taken.

        `report` is called with a line for an error that is no client's.
        """
        self.report = report
        self.limits = limits or Limits()
        self.answer: Callable[[Request], Answer] = _nothing_yet
        """Answers a request; RefusedError becomes its answer. Called in several threads."""
        self._free = threading.BoundedSemaphore(_CONNECTIONS_MAX)
        super().__init__((HOST, port), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Bind without the look-up of a name, which `HTTPServer` does and may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.port

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a new thread; close the connection if there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a request, and let another connection take its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error in a line; a client that has left is none."""
        error = sys.exception() if sys.version_info >= (3, 12) else sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.report(f"unexpected {type(error).__name__} in a request: {error}")


def _nothing_yet(request: Request) -> Answer:
    raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the server is starting")


class _Handler(BaseHTTPRequestHandler):
    """Reads one request within a time and a size, and sends the answer."""

    server: ViewServer
    server_version = "tokentape"
    sys_version = ""
    # The default, 0.9, has no status line: a request that cannot be parsed would get none.
    default_request_version = "HTTP/1.0"
    command = ""
    requestline = ""
    request_version = default_request_version

    def handle(self) -> None:
        """Answer one request. The connection closes after it."""
        self.close_connection = True
        self._body_sent_early = b""
        self._until = time.monotonic() + self.server.limits.request_s
        try:
            head = self._read_head()
            if head is None:
                return
            # `parse_request` reads a line at a time, which a slow client could stretch.
            self.rfile = BytesIO(head)
            self.raw_requestline = self.rfile.readline()
            if not self.parse_request():
                return
            self._send(self.server.answer(self._request()))
        except RefusedError as error:
            self._send(error.answer())
        except TimeoutError:
            return

    def _request(self) -> Request:
        path, _, query = self.path.partition("#")[0].partition("?")
        if not path.startswith("/"):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the address must begin with a slash")
        try:
            fields = parse_qs(
                query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX, errors="replace"
            )
        except ValueError:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the query cannot be read") from None
        headers = {name.lower(): value for name, value in self.headers.items()}
        if len(self.headers.get_all("host", [])) > 1:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the request names several hosts")
        return Request(
            method=self.command,
            path=path,
            query={name: tuple(values) for name, values in fields.items()},
            headers=headers,
            body=self._read_body(headers) if self.command == "POST" else b"",
        )

    def _read_head(self) -> bytes | None:
        """Return the request line and the headers; None if the client has left before their end.

        Raise RefusedError if they are too long, TimeoutError if they take too long.
        """
        read = b""
        while True:
            for end in (b"\r\n\r\n", b"\n\n"):
                if end in read:
                    head, _, self._body_sent_early = read.partition(end)
                    return head + end
            if len(read) > _HEAD_BYTES_MAX:
                raise RefusedError(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too long"
                )
            piece = self._receive()
            if not piece:
                return None
            read += piece

    def _read_body(self, headers: dict[str, str]) -> bytes:
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "the body needs a Content-Length")
        # The digits are counted first: `int` of many of them takes long.
        if len(length) > 9 or int(length) > _BODY_BYTES_MAX:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too long")
        body = self._body_sent_early
        while len(body) < int(length):
            piece = self._receive()
            if not piece:
                raise RefusedError(HTTPStatus.BAD_REQUEST, "the body ends early")
            body += piece
        return body[: int(length)]

    def _receive(self) -> bytes:
        """Return the next bytes within the time that is left. Raise TimeoutError after it."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        received: bytes = self.connection.recv(_CHUNK_BYTES)
        return received

    def _send(self, answer: Answer) -> None:
        self.connection.settimeout(self.server.limits.answer_s)
        self.send_response(answer.status)
        headers = _FIXED_HEADERS | {"Content-Security-Policy": _NO_CONTENT_POLICY}
        headers |= {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body))}
        if answer.status is HTTPStatus.NO_CONTENT:
            del headers["Content-Type"], headers["Content-Length"]
        for name, value in (headers | dict(answer.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        # Otherwise a client that still sends would lose the answer.
        self.connection.shutdown(socket.SHUT_WR)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that cannot be parsed with a sentence, without quoting it."""
        self.command = self.command or ""
        self._send(RefusedError(HTTPStatus(code), "the request cannot be read").answer())

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the address of a request has the token."""
