"""What is to be put before a model, before a template has written it."""

from dataclasses import dataclass

from tokentape.recorder.events import MessageAdded


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message that is to be put before the model; with a `tool_call_id`, a tool's result."""

    role: str
    content: str
    tool_call_id: str | None = None

    @property
    def is_result(self) -> bool:
        """Whatever its role: a template may know none of tools."""
        return self.role == "tool" or self.tool_call_id is not None

    def added(self, text: str = "", ids: tuple[int, ...] = ()) -> MessageAdded:
        return MessageAdded(
            role=self.role,
            content=self.content,
            text=text,
            ids=ids,
            tool_call_id=self.tool_call_id,
        )

    def templated(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}
