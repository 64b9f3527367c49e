"""The HTTP server: uvicorn in a thread, with limits on how long a client may take."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

import tokentape as tt
from tokentape.endpoint.access import is_loopback

_CONNECTIONS_MAX = 256
_HEAD_S, _STALLED_S = 20.0, 60.0
_ENDING_S = 10
_HEAD_BYTES_MAX = 64 * 1024
_BACKLOG = 128


class TimedConnection(H11Protocol):
    """A connection that is closed when its client sends no request, or reads no response.

    uvicorn waits for both without an end.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._unread: asyncio.TimerHandle | None = None
        self._wait_for_request(self.cycle)

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        self._wait_for_request(answered)

    def pause_writing(self) -> None:
        """Note that the client has not read what was sent last."""
        super().pause_writing()
        self._unread = self.loop.call_later(_STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait_for_request(self, answered: Any) -> None:
        def close() -> None:
            if self.cycle is answered:
                self.transport.abort()

        self.loop.call_later(_HEAD_S, close)


class _Notes(logging.Handler):
    """Reports errors of uvicorn in a line, without the traceback, which may quote a request."""

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        kind = "" if error is None else f" ({type(error).__name__})"
        self._report(f"the HTTP server: {record.getMessage().splitlines()[0]}{kind}")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, on a free port for 0. Raise TokentapeError if it cannot."""
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise tt.TokentapeError(
            f"cannot listen on {host} port {port}: {error.strerror}; name another with --host and "
            "--port"
        ) from None


def address_of(listening: socket.socket, host: str) -> str:
    """Return the address of the API, as clients take it."""
    bound, port = listening.getsockname()[:2]
    name = host if is_loopback(host) or not _is_any(bound) else socket.gethostname()
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/v1"


def _is_any(bound: str) -> bool:
    return bound in ("0.0.0.0", "::")


class HttpServer:
    """An application that is served in a thread, within the context of this object.

    Leaving it waits for the responses that are under way.
    """

    def __init__(
        self, app: ASGIApp, listening: socket.socket, report: Callable[[str], None]
    ) -> None:
        """`report` is called with a line for an error of the server itself."""
        config = uvicorn.Config(
            app,
            http=TimedConnection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS_MAX,
            h11_max_incomplete_event_size=_HEAD_BYTES_MAX,
            timeout_graceful_shutdown=_ENDING_S,
        )
        self._server = uvicorn.Server(config)
        self._listening = listening
        self._notes = _Notes(report)
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name="tokentape-http", daemon=True
        )

    def __enter__(self) -> Self:
        return self

    def start(self) -> None:
        """Answer requests from now on; those that came before have waited."""
        logger = logging.getLogger("uvicorn")
        logger.addHandler(self._notes)
        logger.propagate = False
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        if self._thread.ident is None:
            self._listening.close()
            return
        self._server.should_exit = True
        self._thread.join(_ENDING_S + 5)
        logging.getLogger("uvicorn").removeHandler(self._notes)
