"""A proxy between a client and a PostgreSQL server that cuts a connection at a chosen request."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from sqlalchemy.engine import URL, make_url

Cut = Literal["before", "within", "after"]
"""Whether the server gets nothing of the request, a part, or all; the client gets no answer."""


class CuttingProxy:
    """Passes connections on to the socket of a server; counts the requests of all of them."""

    def __init__(self, server: URL) -> None:
        self._server_path = f"{server.query['host']}/.s.PGSQL.5432"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests = 0
        """Counted since `arm`."""
        self.refused = 0
        """Connections that were refused since `arm`."""
        self._lock = threading.Lock()
        self._cut_at: int | None = None
        self._cut: Cut = "before"
        self._refuses = self._refuses_then = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, cut_at: int | None, cut: Cut = "before", *, then_refuse: int = 0) -> None:
        """Cut the connection of a later request.

        With `then_refuse`, cut all others, too, and refuse so many new ones.
        """
        with self._lock:
            self.requests = self.refused = 0
            self._cut_at, self._cut = cut_at, cut
            self._refuses, self._refuses_then = 0, then_refuse

    @property
    def is_armed(self) -> bool:
        """Whether the request to cut at has not come yet."""
        return self._cut_at is not None

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._refuses:
                    self._refuses -= 1
                    self.refused += 1
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server_path)
                self._open += [client, server]
                for target in (self._requests, self._answers):
                    threading.Thread(target=target, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        buffer, started = b"", False
        with suppress(OSError):
            while chunk := client.recv(1 << 16):
                buffer += chunk
                while (size := _request_size(buffer, started)) is not None:
                    request, buffer = buffer[:size], buffer[size:]
                    cut = self._count() if started else None
                    if cut is not None:
                        self._end(cut, request, client, server)
                        return
                    # An answer to the request for TLS, which this server refuses, follows first.
                    started = started or request[4:8] != b"\x04\xd2\x16\x2f"
                    server.sendall(request)
        _close(client, server)

    def _count(self) -> Cut | None:
        """Return how to cut the connection if this is the request for it."""
        with self._lock:
            self.requests += 1
            if self.requests != self._cut_at:
                return None
            self._cut_at, self._refuses = None, self._refuses_then
            if self._refuses:
                _close(*self._open)
                self._open.clear()
            return self._cut

    def _end(self, cut: Cut, request: bytes, client: socket.socket, server: socket.socket) -> None:
        # The server may go on with a request after the client has lost it.
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
            if cut == "within":
                server.sendall(request[: len(request) // 2])
            elif cut == "after":
                server.sendall(request)
        _close(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while chunk := server.recv(1 << 16):
                client.sendall(chunk)
        _close(client, server)


def _request_size(buffer: bytes, started: bool) -> int | None:
    """Return the bytes of the first request of a connection; None if it is not complete.

    A request is what the server answers: messages up to a Query, a Sync or a Terminate.
    """
    if not started:
        size = int.from_bytes(buffer[:4], "big")
        return size if len(buffer) >= max(size, 4) else None
    at = 0
    while len(buffer) >= at + 5:
        kind, size = buffer[at : at + 1], 1 + int.from_bytes(buffer[at + 1 : at + 5], "big")
        at += size
        if len(buffer) < at:
            return None
        if kind in (b"Q", b"S", b"X", b"p"):
            return at
    return None


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextmanager
def cutting_proxy(url: str) -> Iterator[tuple[CuttingProxy, str]]:
    """Yield a proxy of the server, and the URL of the same database by way of it."""
    server = make_url(url)
    proxy = CuttingProxy(server)
    by_proxy = server.set(host="127.0.0.1", port=proxy.port, query={})
    try:
        yield proxy, by_proxy.render_as_string(hide_password=False)
    finally:
        proxy.close()
