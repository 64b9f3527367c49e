"""Requests and answers, without the connection that they travel on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

JSON = "application/json"
_PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request whose form is right; whether it is allowed is not decided yet."""

    method: str
    path: str
    """Begins with `/`; percent-encoded as it was sent."""
    query: Mapping[str, tuple[str, ...]]
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes = b""

    def value(self, name: str) -> str | None:
        """Return the last value of a parameter of the query, or None."""
        values = self.query.get(name)
        return values[-1] if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server sends back."""

    status: HTTPStatus
    body: bytes = b""
    content_type: str = _PLAIN
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, value: Any, status: HTTPStatus = HTTPStatus.OK) -> "Answer":
        """Return a value as JSON."""
        text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
        return cls(status=status, body=text.encode(), content_type=JSON)

    @classmethod
    def error(cls, status: HTTPStatus, sentence: str) -> "Answer":
        """Return an error as JSON with one sentence."""
        return cls.of_json({"error": sentence}, status)


class RefusedError(Exception):
    """A request is refused; the text is a sentence for the person at the browser."""

    def __init__(self, status: HTTPStatus, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(self) -> Answer:
        """Return the refusal as plain text."""
        text = f"{self.status.value} {self.status.phrase}: {self}\n"
        return Answer(status=self.status, body=text.encode(), headers=self.headers)
