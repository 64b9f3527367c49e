"""Inspect's messages and tools in the form of chat completions, and replies in Inspect's form."""

from collections.abc import Iterable, Sequence
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    Content,
    ContentReasoning,
    ContentText,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolInfo

from tokentape.generation.completions.completion import CompletedCall
from tokentape.generation.errors import PromptError
from tokentape.inspect_provider.reasoning import reasoning_text
from tokentape.recorder import chat_messages


def to_chat_messages(messages: Sequence[ChatMessage]) -> tuple[chat_messages.ChatMessage, ...]:
    """Return the messages of a conversation, with the texts that Inspect sends to an OpenAI server.

    A malformed call of the model stays in the text of its message, as the model wrote it. Raise
    PromptError for a part that is no text.
    """
    return tuple(_message(index, each) for index, each in enumerate(messages))


def _message(index: int, message: ChatMessage) -> chat_messages.ChatMessage:
    content = _text(index, message)
    if isinstance(message, ChatMessageTool):
        if message.error is not None:
            content = f"Error: {message.error.message}"
        return chat_messages.ChatMessage(
            role=chat_messages.TOOL, content=content, tool_call_id=str(message.tool_call_id)
        )
    calls: tuple[chat_messages.ChatToolCall, ...] = ()
    if isinstance(message, ChatMessageAssistant):
        calls = tuple(
            chat_messages.ChatToolCall(
                call_id=each.id, name=each.function, arguments=each.arguments
            )
            for each in message.tool_calls or ()
            if each.parse_error is None
        )
    return chat_messages.ChatMessage(role=message.role, content=content, tool_calls=calls)


def _text(index: int, message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    for each in message.content:
        if not isinstance(each, ContentText | ContentReasoning):
            raise PromptError(
                f"messages[{index}]: the model reads text only, not a part of type {each.type!r}"
            )
    # As `ChatMessage.text` joins them, but that what the model thought comes first.
    return _thought(message.content) + "\n".join(_texts(message.content))


def _thought(content: Iterable[Content]) -> str:
    return "".join(reasoning_text(each) for each in content if isinstance(each, ContentReasoning))


def _texts(content: Iterable[Content]) -> list[str]:
    return [each.text for each in content if isinstance(each, ContentText)]


def to_tool_schemas(tools: Sequence[ToolInfo], choice: ToolChoice) -> tuple[dict[str, Any], ...]:
    """Return the JSON schemas of the tools, none if the choice is `none`.

    Raise PromptError for a choice that forces a call.
    """
    if choice == "none" or not tools:
        return ()
    if choice != "auto":
        named = choice if isinstance(choice, str) else choice.name
        raise PromptError(
            f"tool_choice {named!r} forces a call, which a local model cannot be made to write: "
            "use 'auto' or 'none'"
        )
    return tuple(
        {
            "name": each.name,
            "description": each.description,
            "parameters": each.parameters.model_dump(exclude_none=True),
        }
        for each in tools
    )


def to_tool_calls(calls: Sequence[CompletedCall]) -> list[ToolCall] | None:
    """Return the calls of a reply for Inspect; a malformed one has a `parse_error`.

    The model reads that error as the result of the call.
    """
    return [
        ToolCall(
            id=each.call_id,
            function=each.name or "unknown",
            arguments=dict(each.arguments),
            parse_error=each.error or None,
        )
        for each in calls
    ] or None
