"""Events of tools: a call and its result."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from tokentape.recorder.escapes import visible
from tokentape.recorder.events.checks import check_counts, check_duration, choose
from tokentape.recorder.events.fields import (
    PayloadBytes,
    PayloadSha256,
    Redact,
    Text,
    Values,
)
from tokentape.recorder.events.traits import BelongsTo, EventBase, EventTraits

NOT_RUN = "it was not run"
"""Beginning of the error of a call above the limit of calls per turn."""
# The full result is in the recording.
_DESCRIBED_CHARACTERS = 400


class ToolCaller(StrEnum):
    """Who called a tool."""

    EXPERIMENTER = "experimenter"
    """The user, between turns."""
    MODEL = "model"
    """The model, in its reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled(EventBase):
    """The user or the model called a tool."""

    version: ClassVar[int] = 1
    traits: ClassVar[EventTraits] = EventTraits(belongs_to=BelongsTo.NEXT_TURN)

    call_id: Text
    name: Text
    """The tool; empty if the model's text has no readable name."""
    arguments: Values
    caller: ToolCaller = ToolCaller.EXPERIMENTER
    turn: int | None = None
    """The turn in whose reply the model called, or None if the user did."""
    step: int | None = None
    """How many tokens of the turn come before the call if the model called, else None."""
    text: Text = ""
    """The call in the model's own words."""

    def __post_init__(self) -> None:
        choose(self, caller=ToolCaller)
        check_counts(turn=self.turn, step=self.step)

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        who = "the model calls" if self.caller is ToolCaller.MODEL else "tool"
        if not self.name:
            return f"{who} something that cannot be read: {visible(self.text)}"
        arguments = json.dumps(dict(self.arguments), ensure_ascii=False)
        return f"{who} {visible(self.name)} {visible(arguments)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned(EventBase):
    """A tool returned: a compact view for the model and, as a blob, the full result."""

    version: ClassVar[int] = 2
    traits: ClassVar[EventTraits] = EventTraits(
        durable=True, belongs_to=BelongsTo.NEXT_TURN, payload="payload_sha256"
    )

    call_id: Text
    name: Text
    content: Text
    """The compact view, which the model reads."""
    content_tokens: int
    payload_sha256: PayloadSha256
    """The sha256 of the full result; empty if a redactor did not let it be stored."""
    payload_bytes: PayloadBytes
    payload_tokens: int
    """The full result in tokens of the model."""
    tensors: Annotated[tuple[Mapping[str, Any], ...], Redact.VALUES]
    """The tensors that the tool read: `name`, `shape`, `dtype` and `sha256` of each."""
    error: Text | None
    """The error of the call; None if it succeeded."""
    duration_us: int
    turn: int | None = None
    """The turn in whose reply the model called, or None if the user did."""
    traceback: Text = ""
    """Where the tool failed, or where it was when its time was over; see `ToolResult`.

    Empty in runs of version 0.1.0.
    """

    def __post_init__(self) -> None:
        check_counts(
            content_tokens=self.content_tokens,
            payload_bytes=self.payload_bytes,
            payload_tokens=self.payload_tokens,
            turn=self.turn,
        )
        check_duration(self.duration_us)

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        shown = visible(self.content[:_DESCRIBED_CHARACTERS])
        more = "…" if len(self.content) > _DESCRIBED_CHARACTERS else ""
        return f"  → {shown}{more} ({self.content_tokens:,} tokens)"
