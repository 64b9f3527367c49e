"""The messages of a conversation, from events."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokentape.recorder.envelope import Envelope
from tokentape.recorder.events import (
    MessageAdded,
    RunResumed,
    SystemPromptCached,
    TurnFinished,
    TurnStarted,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message of a conversation, and the event that recorded it."""

    role: str
    content: str
    seq: int
    turn: int | None = None
    """The turn that generated it; None for a message that was added to a prompt."""
    tool_call_id: str | None = None


def iterate_messages(envelopes: Iterable[Envelope]) -> Iterator[Message]:
    """Yield every message of a run, in order.

    Messages that were pruned later are included. Not included are the reply of a turn that was cut
    off, and messages that no turn began with before the run was resumed.
    """
    coming: list[Message] = []
    begun = ""
    for envelope in envelopes:
        event = envelope.event
        if isinstance(event, RunResumed):
            coming = []
        elif isinstance(event, TurnStarted):
            yield from coming
            coming = []
            # In a fork at a token, the prompt ends with the beginning of the reply.
            begun = begun + event.added_text if event.continued_tokens else ""
        elif isinstance(event, SystemPromptCached):
            if event.content:
                yield Message(role="system", content=event.content, seq=envelope.seq)
        elif isinstance(event, MessageAdded):
            message = Message(
                role=event.role,
                content=event.content,
                seq=envelope.seq,
                tool_call_id=event.tool_call_id,
            )
            coming.append(message)
        elif isinstance(event, TurnFinished):
            text = begun + event.text
            yield Message(role="assistant", content=text, seq=envelope.seq, turn=event.turn)
    yield from coming
