"""The conversation as people read it: roles and texts in order."""

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
    """A message and where it is recorded; `turn` is None for what was said by no turn's model."""

    role: str
    content: str
    seq: int
    turn: int | None = None
    tool_call_id: str | None = None


def iterate_messages(envelopes: Iterable[Envelope]) -> Iterator[Message]:
    """Every message of a run; the reply of a turn that was cut off is not among them.

    What was pruned later is: it was said. What no turn took up before the run was resumed is not.
    """
    coming: list[Message] = []
    for envelope in envelopes:
        event = envelope.event
        if isinstance(event, RunResumed):
            coming = []
        elif isinstance(event, TurnStarted):
            yield from coming
            coming = []
        elif isinstance(event, SystemPromptCached):
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
            yield Message(role="assistant", content=event.text, seq=envelope.seq, turn=event.turn)
    yield from coming
