"""The routes of the endpoint."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tokentape.endpoint.access import EndpointAccess
from tokentape.endpoint.chat_requests import ParsedRequest, ServedModel, parse_request
from tokentape.endpoint.chat_responses import ResponseWriter
from tokentape.endpoint.chat_stream import DONE, ReplyStream, event_of
from tokentape.endpoint.content_stream import ContentStream
from tokentape.endpoint.errors import ApiError, ClientLeftError, error_of_turn
from tokentape.endpoint.request_reading import BodyLimits, parse_json, read_bytes
from tokentape.endpoint.served_turns import BegunTurn, ServedTurn, ServedTurns, TurnUpdate
from tokentape.endpoint.token_logprobs import TokenLogprobs
from tokentape.generation.completions.chat_request import ChatRequest
from tokentape.recorder.errors import TokentapeError

_CLIENT_LEFT = 499
"""As nginx notes it; nobody reads it."""
_NOTHING_KEPT = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatService:
    """What the routes answer with."""

    turns: ServedTurns
    model: ServedModel
    fingerprint: str
    logprobs: TokenLogprobs
    call_opening: Callable[[ChatRequest], str | None]
    """Returns the pattern with which a call in the reply begins; see `ContentStream`."""
    limits: BodyLimits
    created: int
    """When the server started, in seconds since 1970."""


def make_app(service: ChatService, access: EndpointAccess) -> ASGIApp:
    """Return the application of a server."""
    routes = _Routes(service)
    return Starlette(
        routes=[
            Route("/health", routes.health),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/v1/chat/completions", routes.chat_completions, methods=["POST"]),
        ],
        middleware=[Middleware(_AccessCheck, access=access)],
        exception_handlers={
            ApiError: _answer_error,
            HTTPException: _answer_http_error,
            ClientDisconnect: _answer_nobody,
            Exception: _answer_fault,
        },
    )


class _AccessCheck:
    """Answers a request that may not be answered, before anything of its body is read."""

    def __init__(self, app: ASGIApp, access: EndpointAccess) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._access.check(scope["path"], _headers(scope))
        except ApiError as error:
            await _error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): each.decode("latin-1") for name, each in scope["headers"]}


class _Routes:
    """The handlers of requests."""

    def __init__(self, service: ChatService) -> None:
        self._service = service
        self._reading = asyncio.Semaphore(service.limits.at_once)

    async def health(self, request: Request) -> Response:
        """Say that the server answers."""
        return _json_response({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """List the one model."""
        return _json_response({"object": "list", "data": [self._described_model()]})

    async def model(self, request: Request) -> Response:
        """Describe the model by its name."""
        self._service.model.check_named(request.path_params["name"])
        return _json_response(self._described_model())

    async def chat_completions(self, request: Request) -> Response:
        """Generate the next reply of a conversation, as a recorded turn."""
        async with self._reading:
            body = await read_bytes(request, self._service.limits)
            # Megabytes of JSON take a while: streams of other clients go on.
            parsed, opening = await asyncio.to_thread(self._parse, body)
        turn = self._service.turns.start(parsed.chat)
        leaving = asyncio.create_task(_leave_with_client(request, turn))
        try:
            if parsed.streams:
                # What is wrong with a request is known before its first token: no stream begins.
                updates = await _begun_updates(turn)
                content = ContentStream(parsed.stops, opening)
                stream = ReplyStream(self._writer(parsed), content, wants_usage=parsed.wants_usage)
                events = _events(stream, turn, updates, leaving)
                return StreamingResponse(
                    events, media_type="text/event-stream", headers=_NOTHING_KEPT
                )
            completion = await turn.completion()
        except BaseException as error:
            turn.leave()
            leaving.cancel()
            if isinstance(error, ClientLeftError):
                return Response(status_code=_CLIENT_LEFT)
            raise
        leaving.cancel()
        return _json_response(self._writer(parsed).whole(completion))

    def _parse(self, body: bytes) -> tuple[ParsedRequest, str | None]:
        """Return a request, and the pattern with which a call in its reply begins."""
        parsed = parse_request(parse_json(body), self._service.model)
        if not parsed.streams:
            return parsed, None
        try:
            return parsed, self._service.call_opening(parsed.chat)
        except TokentapeError as error:
            raise error_of_turn(error) from None

    def _writer(self, parsed: ParsedRequest) -> ResponseWriter:
        service = self._service
        return ResponseWriter(
            model=service.model.id,
            fingerprint=service.fingerprint,
            logprobs=service.logprobs,
            top_logprobs=parsed.top_logprobs,
        )

    def _described_model(self) -> dict[str, Any]:
        service = self._service
        return {
            "id": service.model.id,
            "object": "model",
            "created": service.created,
            "owned_by": "tokentape",
        }


async def _events(
    stream: ReplyStream,
    turn: ServedTurn,
    updates: AsyncIterator[TurnUpdate],
    leaving: asyncio.Task[None],
) -> AsyncIterator[bytes]:
    """Yield the events of a stream. An error ends it, since its status is sent already."""
    try:
        async for chunk in stream.chunks(updates):
            yield event_of(chunk)
        yield DONE
    except ApiError as error:
        yield event_of(error.body())
    except ClientLeftError:
        return
    finally:
        turn.leave()
        leaving.cancel()


async def _leave_with_client(request: Request, turn: ServedTurn) -> None:
    """End a turn whose client closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    turn.leave()


async def _begun_updates(turn: ServedTurn) -> AsyncIterator[TurnUpdate]:
    """Wait for the first token of a turn. Return its updates; raise what ended it before."""
    updates, begun = turn.updates(), []
    async for update in updates:
        begun.append(update)
        if not isinstance(update, BegunTurn):
            break

    async def all_updates() -> AsyncIterator[TurnUpdate]:
        for update in begun:
            yield update
        async for update in updates:
            yield update

    return all_updates()


def _json_response(
    value: Any, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    # Not every text of a model is valid Unicode.
    body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="replace")
    return Response(
        body, status, headers={**_NOTHING_KEPT, **(headers or {})}, media_type="application/json"
    )


def _error_response(error: ApiError) -> Response:
    return _json_response(error.body(), error.status, error.headers)


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error_response(error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answer a path or a method that there is not."""
    assert isinstance(error, HTTPException)
    there_is = "POST /v1/chat/completions, GET /v1/models and GET /health"
    return _error_response(
        ApiError(HTTPStatus(error.status_code), f"there is no such address: there are {there_is}")
    )


async def _answer_nobody(request: Request, error: Exception) -> Response:
    """Answer a client that left while it sent its request."""
    return Response(status_code=_CLIENT_LEFT)


async def _answer_fault(request: Request, error: Exception) -> Response:
    return _error_response(error_of_turn(error))
