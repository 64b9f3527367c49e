"""Events of conversations that are imported from other programs: texts, without tokens."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from tokentape.recorder.escapes import visible
from tokentape.recorder.events.checks import check_counts
from tokentape.recorder.events.fields import Label, Redact, Sha256, Text, Values
from tokentape.recorder.events.traits import BelongsTo, EventBase, EventTraits

Rows = Annotated[tuple[Mapping[str, Any], ...], Redact.VALUES]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationImported(EventBase):
    """The run is a conversation that another program recorded, without token ids.

    It follows `RunStarted`. A `MessageAdded` for each message follows, without ids.
    """

    version: ClassVar[int] = 1
    traits: ClassVar[EventTraits] = EventTraits(belongs_to=BelongsTo.RUN)

    format: Label
    """`inspect` for a log of Inspect, `openai` for a line of chat messages."""
    source: Text
    """The name of the file."""
    content_sha256: Sha256
    """The sha256 of the conversation's JSON in the file, from which the id of the run is made."""
    line: int | None = None
    """The line of a file of lines, from 1."""
    sample: Text = ""
    """The id of the conversation in the file, such as that of a sample; empty if it has none."""
    created: Text = ""
    """When it took place, as the file says it; empty if it does not."""
    metadata: Values = field(default_factory=dict)
    """What else the file says of the conversation."""

    def __post_init__(self) -> None:
        check_counts(line=self.line)

    @property
    def place(self) -> str:
        """The file, and the line or the sample in it, for people."""
        line = "" if self.line is None else f", line {self.line:,}"
        sample = f", sample {visible(self.sample)}" if self.sample and not line else ""
        return f"{visible(self.source)}{line}{sample}"

    @property
    def without_tokens(self) -> str:
        """Why the run cannot be replayed or resumed, as the end of a sentence that names it."""
        return f"has no tokens: it was imported from {self.place}"

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        return f"imported from {self.place}, without tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDetailsImported(EventBase):
    """What the file of an imported conversation says of the message before, besides its text."""

    version: ClassVar[int] = 1
    traits: ClassVar[EventTraits] = EventTraits(belongs_to=BelongsTo.NEXT_TURN)

    turn: int
    tool_calls: Rows = ()
    """The calls of an assistant's message: `call_id`, `name` and `arguments` of each.

    Arguments that are no JSON object are empty, and `arguments_text` has what the model wrote.
    """
    logprobs: Rows = ()
    """For each token `token`, its text, `logprob`, `bytes` and `top_logprobs`; ids are unknown."""
    details: Values = field(default_factory=dict)
    """The rest, such as `model`, `stop_reason`, `usage`, `reasoning`, or `error` of a tool."""

    def __post_init__(self) -> None:
        check_counts(turn=self.turn)

    def describe(self) -> str | None:
        """Return the calls as text for a transcript, if there are any."""
        return "\n".join(map(_described, self.tool_calls)) or None


def _described(call: Mapping[str, Any]) -> str:
    written = call.get("arguments_text")
    if written is None:
        written = json.dumps(call.get("arguments"), ensure_ascii=False)
    return f"calls {visible(str(call.get('name')))} {visible(str(written))}"
