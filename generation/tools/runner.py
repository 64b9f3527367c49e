"""Calls of tools in a run: made, recorded, and not made twice."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import ToolError
from tokentape.generation.hf.control_tokens import encode, mark
from tokentape.generation.history.chat_template import ChatTemplate
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.tools.calls import ParsedCall
from tokentape.generation.tools.interface import ToolInterface, ToolResult, failed_result
from tokentape.recorder import Recorder
from tokentape.recorder.events import ActivationObserved, ToolCalled, ToolReturned

RESULT_ROLES = ("tool", "user")
NOT_RUN = "it was not run"
"""How the error of a call begins that was one too many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool and its arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class ToolUse:
    """Runs calls and records what was asked and what came back.

    `role` is that of the messages with results. `calls` counts those of the run. `answered` are
    results of calls that were made in another process and that no prompt took up: they are not made
    again. Tools run within `around`, and what they had the model do is `observed`.
    """

    tools: ToolInterface
    tokenizer: PreTrainedTokenizerBase
    recorder: Recorder
    role: str = "tool"
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    observed: Callable[[], Iterable[ActivationObserved]] = tuple
    calls: int = 0
    answered: Mapping[str, tuple[ToolCalled, ToolReturned]] = field(default_factory=dict)

    def for_experimenter(self, call: ToolCall) -> tuple[NewMessage, ToolResult]:
        """The message with the result of a call that the experimenter makes for the model."""
        try:
            json.dumps(dict(call.arguments), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ToolError(f"the arguments of {call.name} cannot be recorded: {error}") from None
        self.calls += 1
        called = ToolCalled(
            call_id=f"call_{self.calls}", name=call.name, arguments=dict(call.arguments)
        )
        return self._made(called)

    def for_model(self, call: ParsedCall, *, turn: int, step: int) -> tuple[NewMessage, ToolResult]:
        """The same for a call that the model wrote behind `step` tokens of the turn.

        One that could not be read comes back as an error in words.
        """
        self.calls += 1
        called = ToolCalled(
            call_id=f"call_{self.calls}",
            name=call.name,
            arguments=dict(call.arguments),
            caller="model",
            turn=turn,
            step=step,
            text=call.text,
        )
        return self._made(called, error=call.error)

    def _made(self, called: ToolCalled, *, error: str = "") -> tuple[NewMessage, ToolResult]:
        known = self.answered.get(called.call_id)
        if known is not None and known[0] == called:
            result = _again(known[1])
        else:
            self.recorder.record(called)
            result = failed_result(error) if error else self._answer(called)
            self._record(called, result)
        message = NewMessage(role=self.role, content=result.content, tool_call_id=called.call_id)
        return message, result

    def _answer(self, called: ToolCalled) -> ToolResult:
        with self.around():
            result = self.tools.call(called.name, called.arguments)
        for event in self.observed():
            self.recorder.record(event)
        return result

    def _record(self, called: ToolCalled, result: ToolResult) -> None:
        sha256 = hashlib.sha256(result.payload).hexdigest()
        self.recorder.put_blob(sha256, result.payload)
        self.recorder.record(
            ToolReturned(
                call_id=called.call_id,
                name=called.name,
                content=result.content,
                content_tokens=len(encode(self.tokenizer, mark(self.tokenizer, result.content))),
                payload_sha256=sha256,
                payload_bytes=len(result.payload),
                payload_tokens=len(encode(self.tokenizer, result.payload.decode())),
                tensors=result.tensors,
                error=result.error,
                duration_ms=result.duration_ms,
                turn=called.turn,
            )
        )


def result_role(
    tokenizer: PreTrainedTokenizerBase, template_settings: Mapping[str, Any] | None
) -> str:
    """The role in which results are put before the model: `tool`, or else `user`.

    A template may refuse the role `tool`, or leave out what has it.
    """
    given = template_settings if isinstance(template_settings, Mapping) else {}
    template = ChatTemplate(tokenizer, settings=given)
    probe = "result of a call"
    said = {"system": "Be kind.", "user": "?", "assistant": "a call"}
    asked = [{"role": role, "content": content} for role, content in said.items()]
    for role in RESULT_ROLES:
        shown = template.try_render([*asked, {"role": role, "content": probe}])
        if shown is not None and probe in shown:
            return role
    return RESULT_ROLES[0]


def _again(returned: ToolReturned) -> ToolResult:
    """What a call gave in another process; its payload is in the store."""
    return ToolResult(
        content=returned.content,
        payload=returned.content.encode(),
        tensors=returned.tensors,
        error=returned.error,
        duration_ms=returned.duration_ms,
    )
