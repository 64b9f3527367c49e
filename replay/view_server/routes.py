"""The addresses of a server: pages, and the documents that they fetch."""

import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from tokentape.recorder.damage import DECODING_ERRORS
from tokentape.recorder.errors import TokentapeError
from tokentape.replay.view.page import content_security_policy, served_page
from tokentape.replay.view_server.access import RequestAccess
from tokentape.replay.view_server.forks import ForkPoint, ForkWorker, one_line
from tokentape.replay.view_server.messages import Answer, RefusedError, Request
from tokentape.replay.view_server.stored_runs import StoredRuns
from tokentape.store.errors import NoSuchRunError, StoreError

_READERS_MAX = 8
"""Requests that read the store at once; each may take a connection and a run's memory."""
_INT = re.compile(r"[0-9]{1,10}")
_RUN_ID = re.compile(r"[\w.@~-]{1,200}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Routes:
    """Answers requests. Its methods are called in several threads."""

    def __init__(
        self,
        access: RequestAccess,
        runs: StoredRuns,
        worker: "ForkWorker[Any] | None" = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._access = access
        self._runs = runs
        self._worker = worker
        self._report = report
        self._readers = threading.BoundedSemaphore(_READERS_MAX)

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request. Raise RefusedError for one that is refused."""
        self._access.check(request)
        parts = request.path.split("/")[1:]
        if parts[0] != "api":
            return self._page_answer(request, parts)
        # Decoded after the split: no percent-encoded slash makes another part.
        parts = [unquote(each, errors="replace") for each in parts[1:]]
        try:
            with self._readers:
                return self._api_answer(request, parts)
        except NoSuchRunError as error:
            return Answer.error(HTTPStatus.NOT_FOUND, one_line(error))
        except TokentapeError as error:
            return Answer.error(HTTPStatus.UNPROCESSABLE_ENTITY, one_line(error))
        except DECODING_ERRORS as error:
            return Answer.error(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"the recording is damaged: {one_line(error)}"
            )
        except RefusedError:
            raise
        except Exception as error:
            text = f"unexpected {type(error).__name__}: {one_line(error)}"
            self._report(text)
            return Answer.error(HTTPStatus.INTERNAL_SERVER_ERROR, text)

    def _page_answer(self, request: Request, parts: list[str]) -> Answer:
        """Return the page, which then fetches its document; the cookie comes with it."""
        _only_get(request)
        match parts:
            case [""]:
                source = "/api/runs"
            case ["run", run_id] if _RUN_ID.fullmatch(run_id):
                source = f"/api/run/{run_id}"
            case ["diff"]:
                a, b = request.value("a") or "", request.value("b") or ""
                if not (_RUN_ID.fullmatch(a) and _RUN_ID.fullmatch(b)):
                    raise RefusedError(HTTPStatus.BAD_REQUEST, "name two runs: /diff?a=ID&b=ID")
                source = f"/api/diff?a={a}&b={b}"
            case _:
                raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such page here")
        policy = f"{content_security_policy(is_served=True)}; frame-ancestors 'none'"
        return Answer(
            status=HTTPStatus.OK,
            body=served_page(source).encode(),
            content_type="text/html; charset=utf-8",
            headers={"Set-Cookie": self._access.cookie, "Content-Security-Policy": policy},
        )

    def _api_answer(self, request: Request, parts: list[str]) -> Answer:
        if parts == ["fork"]:
            return self._start_fork(request)
        _only_get(request)
        match parts:
            case ["runs"]:
                return Answer.of_json(self._runs.listed(request.query))
            case ["run", run_id]:
                return self._run(request, run_id)
            case ["run", run_id, "payload", sha256] if _SHA256.fullmatch(sha256):
                return Answer.of_json(self._runs.payload(run_id, sha256))
            case ["diff"]:
                a, b = request.value("a"), request.value("b")
                if not a or not b:
                    return Answer.error(HTTPStatus.BAD_REQUEST, "name two runs to compare: ?a=&b=")
                return Answer.of_json(self._runs.diff(a, b))
            case ["forks"]:
                state = {"model": None, "fork": None}
                return Answer.of_json(state if self._worker is None else self._worker.as_json())
        raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such document here")

    def _run(self, request: Request, run_id: str) -> Answer:
        first = request.value("tokens_from") or "0"
        if not _INT.fullmatch(first):
            return Answer.error(HTTPStatus.BAD_REQUEST, "tokens_from must be a number")
        document = self._runs.run(run_id, int(first), request.value("version"))
        if document is None:
            return Answer(status=HTTPStatus.NO_CONTENT)
        return Answer.of_json(document)

    def _start_fork(self, request: Request) -> Answer:
        if request.method != "POST":
            raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "a fork is started with POST")
        if self._worker is None:
            raise StoreError("this server has no model: start it with --model to go on from here")
        self._worker.start(ForkPoint.of_body(request.body))
        return Answer.of_json(self._worker.as_json(), HTTPStatus.ACCEPTED)


def _only_get(request: Request) -> None:
    if request.method != "GET":
        raise RefusedError(
            HTTPStatus.METHOD_NOT_ALLOWED, "this address only answers GET", Allow="GET"
        )
