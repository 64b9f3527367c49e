"""Messages that are added to a conversation."""

from dataclasses import dataclass

from tokentape.recorder.events import MessageAdded


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message to add to a conversation; with a `tool_call_id`, the result of a tool."""

    role: str
    content: str
    tool_call_id: str | None = None

    @property
    def is_result(self) -> bool:
        """Whether it is a tool's result, whose role may be `user` if the template has no tools."""
        return self.role == "tool" or self.tool_call_id is not None

    def added(self, text: str = "", ids: tuple[int, ...] = ()) -> MessageAdded:
        """Return the event for this message, which added `text` and `ids` to the stream."""
        return MessageAdded(
            role=self.role,
            content=self.content,
            text=text,
            ids=ids,
            tool_call_id=self.tool_call_id,
        )

    def templated(self) -> dict[str, str]:
        """Return the message as a chat template expects it."""
        return {"role": self.role, "content": self.content}
