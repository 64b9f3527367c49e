"""Messages that are added to a conversation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokentape.recorder.events import MessageAdded, ToolCalled, ToolCaller

Message = Mapping[str, Any]
"""A message of a conversation: `role` and `content`, and `call` for a tool's result.

A `ConversationFormat` makes of it what a chat template is given.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredCall:
    """The tool call that a result answers."""

    call_id: str
    name: str
    arguments: Mapping[str, Any]
    text: str = ""
    """The call as the model wrote it; empty for a call of the user."""
    by_model: bool = False

    @classmethod
    def of(cls, called: ToolCalled) -> "AnsweredCall":
        """Return the call of a recorded event."""
        return cls(
            call_id=called.call_id,
            name=called.name,
            arguments=called.arguments,
            text=called.text,
            by_model=called.caller is ToolCaller.MODEL,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message to add to a conversation; with a `tool_call_id`, the result of a tool."""

    role: str
    content: str
    tool_call_id: str | None = None
    call: AnsweredCall | None = None
    """The call that a result answers; None if it is not known."""

    @property
    def is_result(self) -> bool:
        """Whether it is a tool's result, whose role may be `user` if the template has no tools."""
        return self.role == "tool" or self.tool_call_id is not None

    @property
    def description(self) -> str:
        """The message in words, for errors."""
        if not self.is_result:
            return f"the {self.role}'s message"
        return f"the result of {self.call.name}" if self.call else "the result of a tool"

    def added(self, text: str = "", ids: tuple[int, ...] = ()) -> MessageAdded:
        """Return the event for this message, which added `text` and `ids` to the stream."""
        return MessageAdded(
            role=self.role,
            content=self.content,
            text=text,
            ids=ids,
            tool_call_id=self.tool_call_id,
        )

    def to_message(self) -> Message:
        """Return the message as a conversation holds it."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        return message if self.call is None else message | {"call": self.call}
