"""Errors of requests, in the shape that clients of OpenAI's API read."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import tokentape as tt
from tokentape.generation.batch import BatchEnded
from tokentape.generation.errors import PromptTooLongError

_INVALID, _FAULT = "invalid_request_error", "server_error"
_CLIENT_FAULTS = (tt.ModelError, tt.ToolError)
"""What a turn raises for a request that it cannot have; PromptError is a ModelError."""


class ApiError(tt.TokentapeError):
    """A request that is not answered, and why."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`param` is the field of the request at fault, `code` a word that programs compare."""
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the error as the JSON object of a response."""
        kind = _FAULT if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else _INVALID
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error of a request whose content is at fault."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, param=param, code=code)


def unavailable(message: str, code: str) -> ApiError:
    """Return the error of a request that may be sent again later."""
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE, message, code=code, headers={"Retry-After": "1"}
    )


class ClientLeftError(tt.TokentapeError):
    """A client closed its connection before its reply was complete."""


def error_of_turn(error: BaseException) -> ApiError:
    """Return what a client is told of an exception that ended its turn.

    That of an unexpected exception has nothing of the exception, which may quote the conversation.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLongError):
        return bad_request(str(error), "messages", "context_length_exceeded")
    if isinstance(error, _CLIENT_FAULTS):
        return bad_request(str(error))
    if isinstance(error, RecursionError):
        return bad_request("the request is nested too deeply")
    if isinstance(error, KeyboardInterrupt | SystemExit | BatchEnded):
        return unavailable("the server ends: its turns end after their next token", "shutting_down")
    text = "the turn failed; standard error of the server says in which place"
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, text, code="internal_error")


def place_of(error: BaseException) -> str:
    """Return the class of an exception and the line that raised it, without its message."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}{place}"
