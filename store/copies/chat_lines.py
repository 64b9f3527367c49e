"""Files with a conversation on each line, in the form of OpenAI's chat completions."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokentape.recorder.chat_messages import ChatMessageError, read_chat_messages
from tokentape.recorder.codec import dump_canonical
from tokentape.recorder.damage import DECODING_ERRORS, describe_damage
from tokentape.recorder.errors import TokentapeError
from tokentape.recorder.foreign_files import BYTE_ORDER_MARK
from tokentape.recorder.limits import TooLargeError
from tokentape.recorder.regular_file import open_regular
from tokentape.store.copies.conversations import ForeignConversation, ForeignMessage
from tokentape.store.copies.jsonl import lines_of, parse_line
from tokentape.store.errors import StoreError

_MESSAGE = ("role", "content", "tool_calls", "tool_call_id")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_REQUESTS = ("request", "body")
_HEAD_BYTES = 512
_NO_CONVERSATION: tuple[type[Exception], ...] = (*DECODING_ERRORS, TokentapeError)
_FORMS = (
    "a line is a list of messages, an object with `messages`, or one with `request` and `response`"
)


def has_chat_lines(path: Path) -> bool:
    """Return whether the first line of a file is a conversation, also a damaged one."""
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES).removeprefix(BYTE_ORDER_MARK).lstrip()
        if head[:1] not in (b"{", b"["):
            return False
        file.seek(0)
        first = next((each for each in lines_of(file, str(path)) if each.strip()), b"")
    try:
        value = parse_line(first)
    except DECODING_ERRORS:
        return b'"messages"' in first or b'"role"' in first
    if isinstance(value, list):
        first_item = next(iter(value), None)
        return isinstance(first_item, dict) and ("role" in first_item or "messages" in first_item)
    return isinstance(value, dict) and "run_id" not in value and _request_of(value) is not None


class ChatLines:
    """The conversations of a file, read line by line, without holding more than one in memory."""

    def __init__(self, path: Path, where: str = "") -> None:
        self._path = path
        self.where = where or str(path)

    def __iter__(self) -> Iterator[ForeignConversation]:
        """Yield each conversation. Raise StoreError with the number of a line that is none."""
        try:
            with open_regular(self._path) as file:
                for number, line in enumerate(lines_of(file, self.where), start=1):
                    if line.strip():
                        yield self._conversation(number, line)
        except OSError as error:
            raise StoreError(f"cannot read {self.where}: {error.strerror}") from None

    def _conversation(self, number: int, line: bytes) -> ForeignConversation:
        place = f"{self.where}, line {number:,}"
        try:
            value = parse_line(line)
            content = dump_canonical(value).encode("utf-8", "surrogatepass")
        except TooLargeError as error:
            raise StoreError(f"{place} is too long: {error}") from None
        except DECODING_ERRORS as error:
            raise StoreError(f"{place} is not JSON: {describe_damage(error)}") from None
        try:
            return self._read(number, value, hashlib.sha256(content).hexdigest())
        except ChatMessageError as error:
            raise StoreError(f"{place}: {error}") from None
        except _NO_CONVERSATION as error:
            raise StoreError(f"{place} is no conversation: {error}") from None

    def _read(self, number: int, value: Any, sha256: str) -> ForeignConversation:
        whole: Mapping[str, Any] = {"messages": value} if isinstance(value, list) else value
        request = _request_of(whole) if isinstance(whole, Mapping) else None
        if request is None:
            raise ValueError(_FORMS)
        listed = request["messages"]
        first = next(iter(listed), None)
        if isinstance(first, Mapping) and "messages" in first:
            raise ValueError(f"it is a list of conversations: {_FORMS} (jq -c '.[]' writes lines)")
        response = _response_of(whole)
        messages = [*_messages(listed), *_replies(response)]
        known = {"messages", *_REQUESTS, "response", "choices"}
        rest = {name: each for name, each in whole.items() if name not in known}
        if request is not whole:
            rest |= {
                name: each for name, each in request.items() if name not in ("messages", *rest)
            }
        own = next((whole[name] for name in ("id", "custom_id") if name in whole), "")
        sample = str(own) if isinstance(own, str | int) else ""
        return ForeignConversation(
            format="openai",
            source=self._path.name,
            content_sha256=sha256,
            messages=messages,
            name=sample or f"{self._path.stem}:{number}",
            model=_text(response.get("model")) or _text(request.get("model")),
            line=number,
            sample=sample,
            created=_created(response.get("created", whole.get("created"))),
            metadata=rest,
        )


def _request_of(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the part of a line that has the messages; None if there is none."""
    for each in (value, *(value.get(name) for name in _REQUESTS)):
        if isinstance(each, Mapping) and isinstance(each.get("messages"), Sequence):
            return each
    return None


def _response_of(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the response of a line; empty if it has none."""
    response = value.get("response", value if "choices" in value else None)
    if isinstance(response, Mapping) and isinstance(response.get("body"), Mapping):
        response = response["body"]
    return response if isinstance(response, Mapping) else {}


def _messages(listed: Sequence[Any]) -> list[ForeignMessage]:
    given: list[Any] = []
    unparsed: list[dict[str, str]] = []
    for each in listed:
        readable, texts = _readable(each)
        given.append(readable)
        unparsed.append(texts)
    read = read_chat_messages(given)
    return [
        ForeignMessage(message=message, unparsed=texts, details=_rest(each))
        for message, texts, each in zip(read, unparsed, listed, strict=True)
    ]


def _replies(response: Mapping[str, Any]) -> list[ForeignMessage]:
    """Return the reply of a response: its first choice. The others are in the details."""
    choices = response.get("choices")
    if not isinstance(choices, list) or not choices:
        return []
    if not isinstance(choices[0], Mapping) or "message" not in choices[0]:
        raise ValueError("a choice of its response has no message")
    first = choices[0]
    said: Mapping[str, Any] = first["message"]
    (reply,) = _messages([{"role": "assistant", **said}])
    details = dict(reply.details) | {
        name: response[name] for name in ("model", "usage") if response.get(name)
    }
    if first.get("finish_reason"):
        details["stop_reason"] = first["finish_reason"]
    if choices[1:]:
        details["other_choices"] = choices[1:]
    logprobs = first.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    listed = [each for each in content or () if isinstance(each, Mapping)]
    return [
        ForeignMessage(
            message=reply.message, unparsed=reply.unparsed, logprobs=listed, details=details
        )
    ]


def _readable(message: Any) -> tuple[Any, dict[str, str]]:
    """Return a message with texts in place of pictures and of arguments that are no JSON.

    A log of another model may have pictures, which no prompt here can have. The second value has
    the text of each such argument by call id.
    """
    if not isinstance(message, Mapping):
        return message, {}
    changed = dict(message)
    content = changed.get("content")
    if isinstance(content, list):
        changed["content"] = [
            {"type": "text", "text": f"[{each.get('type')}]"} if _is_other(each) else each
            for each in content
        ]
    unparsed: dict[str, str] = {}
    if isinstance(changed.get("tool_calls"), list):
        changed["tool_calls"] = [_readable_call(each, unparsed) for each in changed["tool_calls"]]
    return changed, unparsed


def _is_other(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") not in _TEXT_PARTS


def _readable_call(call: Any, unparsed: dict[str, str]) -> Any:
    function: Any = call.get("function") if isinstance(call, Mapping) else None
    written = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(written, str):
        return call
    try:
        if not written or isinstance(json.loads(written), dict):
            return call
    except (ValueError, RecursionError):
        pass
    if isinstance(call.get("id"), str):
        unparsed[call["id"]] = written
    return {**call, "function": {**function, "arguments": "{}"}}


def _rest(message: Any) -> dict[str, Any]:
    """Return what a message says besides its text and calls; what was left out by its type."""
    rest = {name: each for name, each in message.items() if name not in _MESSAGE}
    content = message.get("content")
    if isinstance(content, list):
        others = [str(each.get("type")) for each in content if _is_other(each)]
        rest |= {"left_out": others} if others else {}
    return {name: each for name, each in rest.items() if each is not None}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _created(value: Any) -> str:
    """Return a time as a file gives it: ISO 8601, or seconds since 1970."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC).isoformat()
        except (OverflowError, OSError, ValueError):
            return ""
    return _text(value)
