"""Requests of a client, for tests."""

from typing import Any

from transformers import LogitsProcessorList

import tokentape as tt
from tests.forced import forced_reply
from tokentape.generation.completions.chat_request import ChatRequest
from tokentape.generation.completions.completion import Completion
from tokentape.recorder.chat_messages import ChatMessage
from tokentape.store import DatabaseStore

SYSTEM = ChatMessage(role="system", content="Be kind, {tools} or not.")
SETTINGS = {"max_new_tokens": 6, "do_sample": True, "temperature": 0.9}
ADD = {
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
MALFORMED = '<tool_call>\n{"name": "ad", "arguments": {}}\n</tool_call>'


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def result(text: str, call_id: str = "call_1") -> ChatMessage:
    return ChatMessage(role="tool", content=text, tool_call_id=call_id)


def asked(*messages: ChatMessage, **more: Any) -> ChatRequest:
    return ChatRequest(**{"messages": messages, "settings": SETTINGS, "seed": 3, **more})


def saying(lm: tt.LoadedModel, *texts: str) -> dict[str, Any]:
    """Return settings with which the first replies of a conversation are these texts."""
    forced = LogitsProcessorList([forced_reply(lm.tokenizer, texts)])
    return {"max_new_tokens": 200, "do_sample": False, "logits_processor": forced}


def prompt_ids(store: DatabaseStore, of: Completion) -> tuple[int, ...]:
    turns = store.recording(of.run_id).turns()
    return next(each.prompt_ids for each in turns if each.number == of.turn)
