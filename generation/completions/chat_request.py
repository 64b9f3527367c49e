"""A request for the next reply of a conversation that a client keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokentape.recorder.chat_messages import ChatMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """The whole conversation of a client, and how its next reply is generated."""

    messages: tuple[ChatMessage, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """JSON schemas of the tools that the client runs: `name`, `description` and `parameters`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `Investigation.chat`, without `seed` and `callback`."""
    seed: int | None = None
    """The seed of the conversation, from which those of its turns follow; None for a random one.

    Equal requests with equal seeds get equal replies.
    """
    fit_context: bool = False
    """Whether a reply may have fewer than `max_new_tokens` if the context has no room for all.

    Only where the run's `at_context_limit` is `refuse`, which then refuses what leaves no room.
    """
    session: str = ""
    """Only requests of one session continue each other's runs."""
    name: str = "chat"
    """The name of a run that begins with this request."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Facts that are recorded with a run that begins with this request."""
