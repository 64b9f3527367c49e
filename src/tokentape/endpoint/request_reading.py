"""Read the body of a request within a size and a time."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.requests import Request

from tokentape.endpoint.errors import ApiError, bad_request
from tokentape.recorder.limits import TooLargeError, load_json

_CLOSE = {"Connection": "close"}
_DRAINED = 8
"""A body of up to so many times the limit is read to its end, so that its client, which still
sends, reads why it is refused."""
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """What a body may take."""

    bytes_max: int = 10 * 1000**2
    seconds_max: float = 60.0
    at_once: int = 16
    """How many bodies are read and parsed at the same time; others wait."""


async def read_bytes(request: Request, limits: BodyLimits) -> bytes:
    """Return the body. Raise ApiError for one that is too long or takes too long."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be of Content-Type application/json"
        )
    # The number of digits is bounded first: `int` of many of them takes long.
    length = request.headers.get("content-length", "")[:20]
    if length.isdigit() and int(length) > _DRAINED * limits.bytes_max:
        raise _too_large(limits.bytes_max, _CLOSE)
    try:
        async with asyncio.timeout(limits.seconds_max):
            return await _collect(request.stream(), limits.bytes_max)
    except TimeoutError:
        raise ApiError(
            HTTPStatus.REQUEST_TIMEOUT, "the body takes too long to arrive", headers=_CLOSE
        ) from None


async def _collect(pieces: AsyncIterator[bytes], bytes_max: int) -> bytes:
    """Return the pieces as one. They are counted as they come: a length is only a claim."""
    body, count = bytearray(), 0
    async for piece in pieces:
        count += len(piece)
        if count <= bytes_max:
            body += piece
        else:
            body.clear()
        if count > _DRAINED * bytes_max:
            break
    if count > bytes_max:
        raise _too_large(bytes_max, _CLOSE if count > _DRAINED * bytes_max else {})
    return bytes(body)


def _too_large(bytes_max: int, headers: Mapping[str, str]) -> ApiError:
    return ApiError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body has more than {bytes_max:,} bytes; the server takes more with --max-body",
        code="body_too_large",
        headers=headers,
    )


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON text in UTF-8. Raise ApiError for anything else.

    The message does not quote the text, which is a conversation.
    """
    try:
        value = load_json(body.decode())
        if _HALF_PAIR.search(body):
            _check_storable(value)
    except UnicodeDecodeError as error:
        raise bad_request(f"the body is not UTF-8: byte {error.start}") from None
    except UnicodeEncodeError:
        raise bad_request("a text has half of a surrogate pair, which is no character") from None
    except RecursionError:
        raise bad_request("the body is nested too deeply") from None
    except TooLargeError:
        raise bad_request("the body has too many values to be read") from None
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {error}") from None
    return value


def _check_storable(value: Any) -> None:
    """Raise UnicodeEncodeError for a text that no UTF-8 can hold."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for name, each in value.items():
            name.encode()
            _check_storable(each)
    elif isinstance(value, list):
        for each in value:
            _check_storable(each)
