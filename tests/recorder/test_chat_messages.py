"""Messages in the form of chat completions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentape.recorder.chat_messages import (
    ChatMessage,
    ChatMessageError,
    ChatToolCall,
    read_chat_messages,
)
from tokentape.recorder.errors import TokentapeError

_TEXTS = st.text(max_size=20)
_VALUES = st.dictionaries(_TEXTS, st.one_of(_TEXTS, st.integers(), st.booleans()), max_size=3)
_CALLS = st.builds(ChatToolCall, call_id=_TEXTS, name=_TEXTS, arguments=_VALUES)
_MESSAGES = st.one_of(
    st.builds(ChatMessage, role=st.sampled_from(["system", "user"]), content=_TEXTS),
    st.builds(
        ChatMessage,
        role=st.just("assistant"),
        content=_TEXTS,
        tool_calls=st.lists(_CALLS, max_size=2).map(tuple),
    ),
    st.builds(ChatMessage, role=st.just("tool"), content=_TEXTS, tool_call_id=_TEXTS),
)


@given(st.lists(_MESSAGES, max_size=4))
def test_messages_are_read_as_they_were_written(messages: list[ChatMessage]) -> None:
    written = json.loads(json.dumps([each.to_dict() for each in messages]))

    assert read_chat_messages(written) == tuple(messages)


def test_contents_in_parts_and_developers_messages_are_read_as_texts() -> None:
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]

    (message,) = read_chat_messages([{"role": "developer", "content": parts, "name": "x"}])

    assert message == ChatMessage(role="system", content="Be brief.")


_CALL = {"id": "a", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("Hello", "an object, not str"),
        ({"content": "Hello"}, "the role is one of system, user"),
        ({"role": ["user"], "content": "Hello"}, "the role is one of"),
        ({"role": "function", "content": "1"}, "not 'function'"),
        ({"role": "user", "content": 7}, "a text or a list of parts"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "not a part of type 'image_url'"),
        ({"role": "user", "content": [{"type": "text", "text": 7}]}, "has no text"),
        ({"role": "user", "content": [7]}, "not a part of type 'int'"),
        ({"role": "tool", "content": "1"}, "has a tool_call_id"),
        ({"role": "user", "content": "", "tool_calls": [_CALL]}, "only an assistant calls tools"),
        ({"role": "assistant", "tool_calls": _CALL}, "tool_calls is a list"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "with a `function`"),
        ({"role": "assistant", "tool_calls": [_CALL | {"id": 7}]}, "has an id"),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[1"}}],
            },
            "the arguments of f are no JSON object: '[1'",
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[1]"}}],
            },
            "the arguments of f are no JSON object",
        ),
    ],
)
def test_what_is_no_message_is_named_with_its_place(message: Any, fault: str) -> None:
    with pytest.raises(ChatMessageError, match="messages\\[1\\]") as raised:
        read_chat_messages([{"role": "user", "content": "Hello"}, message])

    assert fault in str(raised.value)
    assert raised.value.index == 1


def test_messages_that_are_no_list_are_refused() -> None:
    with pytest.raises(TokentapeError, match="given as a list, not as a dict"):
        read_chat_messages({"role": "user"})  # type: ignore[arg-type]
