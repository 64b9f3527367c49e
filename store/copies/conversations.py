"""Conversations of other programs as runs without tokens."""

import functools
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from tokentape.recorder import Envelope, Record, Recorder, Recording
from tokentape.recorder.chat_messages import ASSISTANT, USER, ChatMessage
from tokentape.recorder.clock import now_us
from tokentape.recorder.events import (
    ConversationImported,
    MessageAdded,
    MessageDetailsImported,
    RunStarted,
)
from tokentape.recorder.events.run import IMPORTED
from tokentape.recorder.projections import RunSummary

_NAMESPACE = uuid.UUID("6f2f3c1c-54a1-5d0e-9d43-0d6b7a1c9a5e")
_NAME_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignMessage:
    """A message, and what else its file says of it."""

    message: ChatMessage
    unparsed: Mapping[str, str] = field(default_factory=dict)
    """By call id, arguments that are no JSON object: the text that the model wrote."""
    logprobs: Sequence[Mapping[str, Any]] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignConversation:
    """A conversation of another program; the fields are those of `ConversationImported`."""

    format: str
    source: str
    content_sha256: str
    messages: Sequence[ForeignMessage]
    name: str
    model: str = ""
    line: int | None = None
    sample: str = ""
    created: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """The id of the run that it becomes: equal contents have the same."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.format} {self.content_sha256}"))


def record_conversation(conversation: ForeignConversation, where: str) -> Recording:
    """Return the conversation as a run in memory. Raise RecordingError if no store can hold it.

    The events have the time of the import, since the times of messages are unknown.
    """
    log = _MemoryLog()
    at_us = now_us()
    recorder = Recorder(log, run_id=conversation.run_id, clock_us=lambda: at_us)
    recorder.record(_started(conversation))
    recorder.record(
        ConversationImported(
            format=conversation.format,
            source=conversation.source,
            content_sha256=conversation.content_sha256,
            line=conversation.line,
            sample=conversation.sample,
            created=conversation.created,
            metadata=conversation.metadata,
        )
    )
    turn = 0
    for each in conversation.messages:
        turn += each.message.role == USER
        recorder.record(_added(each.message, max(turn, 1)))
        details = _details(each, max(turn, 1))
        if details is not None:
            recorder.record(details)
    recorder.finish(IMPORTED)
    return Recording(conversation.run_id, lambda: iter(log.records), where)


def _started(conversation: ForeignConversation) -> RunStarted:
    return RunStarted(
        name=_line(conversation.name),
        seed=None,
        model=_line(conversation.model),
        weights_sha256="",
        tokenizer_sha256="",
        template_sha256="",
        generation_config={},
        sampler_sha256="",
        dtype="",
        device="",
        attention_kernel="",
        threads=0,
        context_tokens=None,
        environment={},
        settings={},
        tokentape_version=_own_version(),
    )


@functools.cache
def _own_version() -> str:
    """Return the version of tokentape, which takes milliseconds to look up."""
    return version("tokentape")


def _line(text: str) -> str:
    """Return a name as a column can hold it: PostgreSQL stores no NUL."""
    text = text.replace("\0", "\ufffd")
    return text if len(text) <= _NAME_CHARS else f"{text[: _NAME_CHARS - 1]}…"


def _added(message: ChatMessage, turn: int) -> MessageAdded:
    return MessageAdded(
        role=message.role,
        content=message.content,
        text="",
        ids=(),
        tool_call_id=message.tool_call_id,
        turn=turn,
    )


def _details(foreign: ForeignMessage, turn: int) -> MessageDetailsImported | None:
    calls = []
    for each in foreign.message.tool_calls if foreign.message.role == ASSISTANT else ():
        call = asdict(each)
        if each.call_id in foreign.unparsed:
            call["arguments_text"] = foreign.unparsed[each.call_id]
        calls.append(call)
    if not (calls or foreign.logprobs or foreign.details):
        return None
    return MessageDetailsImported(
        turn=turn,
        tool_calls=tuple(calls),
        logprobs=tuple(foreign.logprobs),
        details=foreign.details,
    )


class _MemoryLog:
    """Keeps the records of a run."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(
        self, envelope: Envelope, record: Record, *, durable: bool, summary: RunSummary | None
    ) -> None:
        self.records.append(record)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        raise NotImplementedError("a conversation without tokens has no payloads")


class NothingAttached:
    """The attachments of a conversation: none. See `tokentape.store.source.Attachments`."""

    def blob(self, sha256: str) -> bytes:
        raise KeyError(sha256)

    def verdicts(self, run_id: str) -> list[Any]:
        return []

    def floors(self, run_id: str) -> list[Any]:
        return []

    def labels(self, run_id: str) -> list[Any]:
        return []
