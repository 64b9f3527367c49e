"""The parts of a prompt: messages, and the text that the chat template writes around them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedMessage:
    """A message that was added since the last round."""

    role: str
    content: str
    text: str
    """The content and the template's text around it; empty where the history is rendered again."""
    tokens: int
    """Tokens of `text`."""
    first_token: int
    """The index in the stream at which `text` begins."""
    index: int
    """The message's number in the run; the system prompt has zero."""
    tool_call_id: str | None = None

    def parts(self) -> Iterator[dict[str, Any]]:
        """Yield the content, and the template's text before and after it.

        The tokens of all three are counted with the content: where it ends within them is not
        recorded. A content that the template changed is not found, and the text is one part.
        """
        if not self.content:
            yield template_part(self.text, self.tokens)
            return
        content = _found_in(self.text, self.content)
        start = self.text.find(content)
        if start < 0:
            yield self._part(self.text, self.tokens)
            return
        yield from template_parts(self.text[:start])
        yield self._part(content, self.tokens)
        yield from template_parts(self.text[start + len(content) :])

    def _part(self, text: str, tokens: int | None) -> dict[str, Any]:
        return {
            "role": self.role,
            "text": text,
            "tokens": tokens,
            "injected": False,
            "tool_call_id": self.tool_call_id,
            "message": self.index,
        }

    def content_part(self) -> dict[str, Any]:
        """Return the content alone, whose tokens are not known."""
        return self._part(self.content, None)


def template_part(text: str, tokens: int | None, *, role: str = "template") -> dict[str, Any]:
    """Return text that no message has; None for tokens that are counted with a message."""
    return {
        "role": role,
        "text": text,
        "tokens": tokens,
        "injected": role == "template",
        "tool_call_id": None,
        "message": None,
    }


def template_parts(text: str) -> Iterator[dict[str, Any]]:
    """Yield the text as a part; nothing for an empty text."""
    if text:
        yield template_part(text, None)


def prompt_parts(
    messages: Sequence[AddedMessage], added_text: str, added_tokens: int, kept_tokens: int
) -> list[dict[str, Any]]:
    """Return what a round added to the prompt, in order.

    `added_text` are the last `added_tokens` tokens of the prompt, after the `kept_tokens` of the
    stream. Messages after these are in `added_text`: the template rendered them again.
    """
    kept = [each for each in messages if each.text and each.first_token < kept_tokens]
    parts = [part for each in kept for part in each.parts()]
    rendered = [each for each in messages if each not in kept]
    if rendered:
        parts += _rendered_parts(rendered, added_text, added_tokens)
    elif added_text:
        role = "prompt" if not messages and not kept_tokens else "template"
        parts.append(template_part(added_text, added_tokens, role=role))
    return _joined(parts)


def _joined(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts with adjacent texts of the template joined, if their tokens are unknown."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        before = joined[-1] if joined else {}
        if (
            part["injected"]
            and before.get("injected")
            and part["tokens"] is before["tokens"] is None
        ):
            joined[-1] = before | {"text": before["text"] + part["text"]}
        else:
            joined.append(part)
    return joined


def _rendered_parts(
    messages: Sequence[AddedMessage], text: str, tokens: int
) -> Iterator[dict[str, Any]]:
    """Yield the parts of a text that the template made of messages, the new ones last."""
    places: list[tuple[int, str]] = []
    end = len(text)
    for each in reversed(messages):
        content = _found_in(text, each.content)
        start = text.rfind(content, 0, end) if content else -1
        if start < 0:
            # The contents were changed by the template: both are shown.
            yield from (message.content_part() for message in messages)
            yield template_part(text, tokens)
            return
        places.insert(0, (start, content))
        end = start
    end = 0
    for message, (start, content) in zip(messages, places, strict=True):
        yield from template_parts(text[end:start])
        yield message.content_part() | {"text": content}
        end = start + len(content)
    yield from template_parts(text[end:])


def _found_in(text: str, content: str) -> str:
    """Return the content as it is in a text: templates strip blanks at both ends."""
    return content if content in text else content.strip()
