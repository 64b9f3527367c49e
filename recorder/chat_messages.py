"""Messages of a conversation in the form of OpenAI's chat completions.

Clients, evaluation logs and files of conversations have this form. It is read here once, for all
of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokentape.recorder.errors import TokentapeError

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
_ROLES = {role: role for role in (SYSTEM, USER, ASSISTANT, TOOL)} | {"developer": SYSTEM}
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class ChatMessageError(TokentapeError):
    """A message is not one of a conversation in text; `index` says which."""

    def __init__(self, index: int, fault: str) -> None:
        super().__init__(f"messages[{index}]: {fault}")
        self.index = index


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatToolCall:
    """A tool call in an assistant's message."""

    call_id: str
    name: str
    arguments: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the call as a chat completion has it."""
        arguments = json.dumps(dict(self.arguments), ensure_ascii=False)
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.call_id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """A message of a conversation."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    content: str = ""
    tool_calls: tuple[ChatToolCall, ...] = ()
    """The calls of an assistant's message."""
    tool_call_id: str | None = None
    """The call whose result a tool's message is."""

    def to_dict(self) -> dict[str, Any]:
        """Return the message as a chat completion has it."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["content"] = self.content or None
            message["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


def read_chat_messages(given: Sequence[Mapping[str, Any]]) -> tuple[ChatMessage, ...]:
    """Return messages that are given as mappings of OpenAI's chat completions.

    The role `developer` is `system`. A content in parts is the text of its parts, and no content is
    an empty one. Raise ChatMessageError for a part that is no text, an unknown role, and a call or
    a result without its id, name or arguments.

    Example:
        >>> (message,) = read_chat_messages([{"role": "user", "content": "Hello"}])
        >>> message.content
        'Hello'
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise TokentapeError(f"messages are given as a list, not as a {type(given).__name__}")
    return tuple(_message(index, each) for index, each in enumerate(given))


def _message(index: int, given: object) -> ChatMessage:
    if not isinstance(given, Mapping):
        raise ChatMessageError(index, f"a message is an object, not {type(given).__name__}")
    role = given.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        known = ", ".join(_ROLES)
        raise ChatMessageError(index, f"the role is one of {known}, not {role!r}")
    role = _ROLES[role]
    calls = given.get("tool_calls") or ()
    if calls and role != ASSISTANT:
        raise ChatMessageError(index, f"only an assistant calls tools, not the role {role}")
    if isinstance(calls, str | Mapping) or not isinstance(calls, Sequence):
        raise ChatMessageError(index, "tool_calls is a list")
    call_id = given.get("tool_call_id")
    if role == TOOL and not isinstance(call_id, str):
        raise ChatMessageError(index, "a tool's message has a tool_call_id")
    return ChatMessage(
        role=role,
        content=_content(index, given.get("content")),
        tool_calls=tuple(_call(index, each) for each in calls),
        tool_call_id=call_id if role == TOOL else None,
    )


def _content(index: int, content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ChatMessageError(index, "the content is a text or a list of parts")
    return "".join(_part(index, each) for each in content)


def _part(index: int, part: object) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if not isinstance(part, Mapping) or kind not in _TEXT_PARTS:
        raise ChatMessageError(index, f"the model reads text only, not a part of type {kind!r}")
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise ChatMessageError(index, f"a part of type {kind!r} has no text")
    return text


def _call(index: int, given: object) -> ChatToolCall:
    function = given.get("function") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(function, Mapping):
        raise ChatMessageError(index, "a tool call is an object with a `function`")
    call_id, name = given.get("id"), function.get("name")
    if not isinstance(call_id, str) or not isinstance(name, str):
        raise ChatMessageError(index, "a tool call has an id and the name of its function")
    return ChatToolCall(
        call_id=call_id, name=name, arguments=_arguments(index, name, function.get("arguments"))
    )


def _arguments(index: int, name: str, given: object) -> Mapping[str, Any]:
    try:
        arguments = json.loads(given or "{}") if isinstance(given, str) else given or {}
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, Mapping):
        raise ChatMessageError(index, f"the arguments of {name} are no JSON object: {given!r}")
    return arguments
