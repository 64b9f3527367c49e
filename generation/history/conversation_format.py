"""How the messages of a conversation are given to a chat template."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from tokentape.generation.history.messages import AnsweredCall, Message
from tokentape.recorder import RecordingError

_SEPARATOR = "\n\n"
"""Text between two contents in one message."""


class SystemPlace(StrEnum):
    """Where the system prompt is given."""

    ROLE = "role"
    """In a message of its own, with the role `system`."""
    FIRST_USER = "first_user"
    """At the beginning of the first user's message."""


class ContentKind(StrEnum):
    """How the content of a message is given."""

    TEXT = "text"
    PARTS = "parts"
    """As a list with one text part."""
    USER_PARTS = "user_parts"
    """As a list in messages with the role `user`, else as text."""


class ResultStyle(StrEnum):
    """How a tool's result is given."""

    TOOL = "tool"
    """In a message with the role `tool`."""
    TOOL_AFTER_CALL = "tool_after_call"
    """In a message with the role `tool`, after an assistant's message with `tool_calls`."""
    USER = "user"
    """In a message with the role `user`."""


class CallIds(StrEnum):
    """Which id a call and its result have."""

    NONE = "none"
    """None; the result has no `name` either."""
    RECORDED = "recorded"
    """That of the recording, such as `call_1`."""
    NINE = "nine"
    """One of nine letters and digits, which some templates require."""


class CallArguments(StrEnum):
    """How the arguments of a call are given."""

    OBJECT = "object"
    JSON = "json"
    """As a string of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationFormat:
    """The choices by which messages are given to a chat template; see `choose_format`.

    The defaults are those of version 0.1.0, which recorded no choices.
    """

    system: SystemPlace = SystemPlace.ROLE
    content: ContentKind = ContentKind.TEXT
    user_results: ResultStyle = ResultStyle.TOOL
    """How the results of the user's calls are given, which follow the user's message."""
    model_results: ResultStyle = ResultStyle.TOOL
    """How the results of the model's calls are given, which follow its reply."""
    joins_messages: bool = False
    """Whether adjacent messages of one role are joined, because roles must alternate."""
    call_ids: CallIds = CallIds.NONE
    call_arguments: CallArguments = CallArguments.OBJECT
    tools: tuple[Mapping[str, Any], ...] = ()
    """JSON schemas that the template is given as `tools`; empty if it does not need them."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By field: why it has not its usual value."""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ConversationFormat":
        """Return the format that `to_record` wrote. Raise RecordingError if it is damaged."""
        unknown = sorted(record.keys() - {each.name for each in fields(cls)})
        if unknown:
            raise RecordingError(f"the recorded conversation format has a field {unknown[0]!r}")
        values = dict(record)
        try:
            for name, kind in _CHOICES.items():
                if name in values:
                    values[name] = kind(values[name])
        except ValueError as error:
            raise RecordingError(f"the recorded conversation format is damaged: {error}") from None
        return cls(**values | {"tools": tuple(values.get("tools", ()))})

    def to_record(self) -> dict[str, Any]:
        """Return the format as values that JSON can hold."""
        record = {name: str(v) if isinstance(v, StrEnum) else v for name, v in asdict(self).items()}
        return record | {"tools": list(self.tools), "reasons": dict(self.reasons)}

    def result_role(self, *, by_model: bool) -> str:
        """Return the role of the messages with results of the model's or the user's calls."""
        style = self.model_results if by_model else self.user_results
        return "user" if style is ResultStyle.USER else "tool"

    def apply(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return the messages as the template is given them."""
        given: list[dict[str, Any]] = []
        inserted: list[dict[str, Any]] = []
        for message in messages:
            call = message.get("call")
            plain = {name: value for name, value in message.items() if name != "call"}
            if isinstance(call, AnsweredCall):
                plain["role"] = self.result_role(by_model=call.by_model)
            if isinstance(call, AnsweredCall) and plain["role"] == "tool":
                if self._follows_call(call):
                    self._add_call(call, given, inserted)
                if self.call_ids is not CallIds.NONE:
                    plain |= {"tool_call_id": self._id_of(call), "name": call.name}
            given.append(plain)
        if self.system is SystemPlace.FIRST_USER:
            given = _folded(given)
        if self.joins_messages:
            given = _joined(given)
        for each in given:
            is_text = self.content is ContentKind.TEXT
            if not is_text and (each["role"] == "user" or self.content is ContentKind.PARTS):
                each["content"] = [{"type": "text", "text": each["content"]}]
        return given

    def calls_before(self, new: Sequence[Message]) -> list[dict[str, Any]]:
        """Return the `tool_calls` of the reply whose calls the new messages answer.

        Empty if the format gives no calls, or the messages are no results of the model's calls.
        """
        calls = [message.get("call") for message in new]
        return [
            self._tool_call(call)
            for call in calls
            if isinstance(call, AnsweredCall) and call.by_model and self._follows_call(call)
        ]

    def _follows_call(self, call: AnsweredCall) -> bool:
        style = self.model_results if call.by_model else self.user_results
        return style is ResultStyle.TOOL_AFTER_CALL

    def _add_call(
        self, call: AnsweredCall, given: list[dict[str, Any]], inserted: list[dict[str, Any]]
    ) -> None:
        """Add the call of a result to the assistant's message before the results.

        That is the model's reply. For a call of the user it is a message that is inserted.
        """
        before = next((each for each in reversed(given) if each["role"] != "tool"), None)
        is_reply = before is not None and before["role"] == "assistant"
        if before is None or not (
            is_reply and (call.by_model or any(each is before for each in inserted))
        ):
            before = {"role": "assistant", "content": ""}
            inserted.append(before)
            given.append(before)
        called = self._tool_call(call)
        calls = before.setdefault("tool_calls", [])
        if called not in calls:
            before["tool_calls"] = [*calls, called]
        if call.text and call.text in before["content"]:
            before["content"] = before["content"].partition(call.text)[0].rstrip()

    def _tool_call(self, call: AnsweredCall) -> dict[str, Any]:
        arguments: Any = dict(call.arguments)
        if self.call_arguments is CallArguments.JSON:
            arguments = json.dumps(arguments, ensure_ascii=False)
        return {
            "type": "function",
            "id": self._id_of(call),
            "function": {"name": call.name, "arguments": arguments},
        }

    def _id_of(self, call: AnsweredCall) -> str:
        if self.call_ids is CallIds.NINE:
            return "c" + re.sub("[^0-9]", "", call.call_id).zfill(8)
        return call.call_id


_CHOICES: Mapping[str, type[StrEnum]] = {
    "system": SystemPlace,
    "content": ContentKind,
    "user_results": ResultStyle,
    "model_results": ResultStyle,
    "call_ids": CallIds,
    "call_arguments": CallArguments,
}


def _folded(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with the system prompt at the beginning of the first user's message."""
    if not given or given[0]["role"] != "system":
        return given
    system, *rest = given
    for index, message in enumerate(rest):
        if message["role"] == "user":
            content = system["content"] + _SEPARATOR + message["content"]
            return [*rest[:index], message | {"content": content}, *rest[index + 1 :]]
    return [system | {"role": "user"}, *rest]


def _joined(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with adjacent ones of one role joined, except tools' and calls."""
    joined: list[dict[str, Any]] = []
    for message in given:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last["role"] == message["role"]
            and message["role"] in ("user", "assistant")
            and "tool_calls" not in last
        ):
            joined[-1] = message | {"content": last["content"] + _SEPARATOR + message["content"]}
        else:
            joined.append(message)
    return joined
