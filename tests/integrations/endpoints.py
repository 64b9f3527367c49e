"""Endpoints on a free port of loopback, in this process, and their clients."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai

import tokentape as tt
from tokentape.endpoint.access import EndpointKey
from tokentape.endpoint.http_server import address_of, listen
from tokentape.endpoint.service import EndpointSettings, TurnReports, served_endpoint
from tokentape.store import DatabaseStore

USER = {"role": "user", "content": "Hello"}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server, and the store that it records into."""

    url: str
    store: DatabaseStore
    model: str
    lines: list[str]
    """What it reported."""
    client: openai.OpenAI = field(repr=False)

    def ask(self, *messages: Any, **fields: Any) -> Any:
        """Return the reply to messages; one that is a text is the user's."""
        given: list[Any] = [
            {"role": "user", "content": each} if isinstance(each, str) else each
            for each in messages
        ]
        chosen: dict[str, Any] = {"model": self.model, "max_tokens": 8, **fields}
        return self.client.chat.completions.create(messages=given, **chosen)

    def recording(self, reply: Any) -> tt.Recording:
        """Return the recording of a reply."""
        return self.store.recording(reply.tokentape["run_id"])


@contextmanager
def running_endpoint(
    lm: tt.LoadedModel, store: DatabaseStore, *, key: str | None = None, **settings: Any
) -> Iterator[Endpoint]:
    """Yield a server with a client that does not try again."""
    chosen: dict[str, Any] = {
        "key": None if key is None else EndpointKey(key=key),
        "on_loopback": True,
        "batch": 8,
        "top_logprobs": 5,
        "max_new_tokens": 16,
        "body_bytes_max": 10_000_000,
        **settings,
    }
    lines: list[str] = []
    reports = TurnReports(lines.append)
    with listen("127.0.0.1", 0) as listening:
        url = address_of(listening, "127.0.0.1")
        with (
            served_endpoint(lm, store, listening, EndpointSettings(**chosen), reports),
            openai.OpenAI(base_url=url, api_key=key or "none", max_retries=0) as client,
        ):
            yield Endpoint(url=url, store=store, model=lm.name, lines=lines, client=client)
