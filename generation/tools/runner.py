"""Run tool calls, record them, and return the results as messages for the model."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import ToolError, ToolFailedWarning
from tokentape.generation.hf.control_tokens import encode, escape_control_tokens
from tokentape.generation.history.conversation_format import ConversationFormat
from tokentape.generation.history.messages import AnsweredCall, NewMessage
from tokentape.generation.tools.calls import ParsedCall
from tokentape.generation.tools.interface import ToolInterface, ToolResult, error_result
from tokentape.generation.tools.tool_call import ToolCall
from tokentape.recorder import Recorder
from tokentape.recorder.escapes import single_line
from tokentape.recorder.events import ActivationObserved, ToolCalled, ToolCaller, ToolReturned
from tokentape.recorder.plain_values import plain_value

EXPECTED_RESULT = '{"expected": "a result"}'
"""Content of the results with which a prompt is tried before tools run."""
_WARNING_CHARS = 300
_FRAME = re.compile(r'^  File "([^"\n]*)", line ([0-9]+)', re.MULTILINE)


def call_id(number: int) -> str:
    """Return the id of a run's `number`th call."""
    return f"call_{number}"


@dataclass(slots=True, kw_only=True)
class ToolRunner:
    """Runs the tool calls of one run and records each call and its result."""

    tools: ToolInterface
    tokenizer: PreTrainedTokenizerBase
    recorder: Recorder
    format: ConversationFormat = field(default_factory=ConversationFormat)
    """How results are given to the chat template."""
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Makes the context manager in which a tool runs."""
    take_observations: Callable[[], Iterable[ActivationObserved]] = tuple
    """Returns the activations observed while the last tool ran; they are recorded after it."""
    calls_made: int = 0
    """Calls of the run so far, in earlier processes too; the next call id is one higher."""
    recorded_results: Mapping[str, tuple[ToolCalled, ToolReturned]] = field(default_factory=dict)
    """By call id: results of an earlier process that are in no prompt yet. Not run again."""

    def run_for_user(self, call: ToolCall) -> tuple[NewMessage, ToolResult]:
        """Run a call that the user makes for the model; return its message and its result.

        Raise ToolError if the arguments cannot be written as JSON.
        """
        answered = self._run(self.called_by_user(call, self.calls_made + 1))
        self.calls_made += 1
        return answered

    def run_for_model(
        self, call: ParsedCall, *, turn: int, step: int
    ) -> tuple[NewMessage, ToolResult]:
        """Run a call that the model wrote, complete after `step` tokens of the turn.

        A malformed call is not run: its error is the result.
        """
        called = self.called_by_model(call, self.calls_made + 1, turn=turn, step=step)
        answered = self._run(called, error=call.error)
        self.calls_made += 1
        return answered

    def record_given(self, called: ToolCalled, content: str) -> None:
        """Record a call with the result that a client of the model gives for it."""
        payload = content.encode()
        self.recorder.record(called)
        result = ToolResult(content=content, payload=payload, tensors=(), error=None, duration_us=0)
        self._record(called, result)

    def expected_from_user(self, calls: Sequence[ToolCall]) -> list[NewMessage]:
        """Return messages like those of the coming results of these calls, without running them.

        Raise ToolError as `run_for_user` does.
        """
        return [
            self.message(self.called_by_user(call, self.calls_made + number), EXPECTED_RESULT)
            for number, call in enumerate(calls, start=1)
        ]

    def expected_from_model(self, calls: Sequence[ParsedCall]) -> list[NewMessage]:
        """Return messages like those of the coming results of these calls, without running them."""
        return [
            self.message(
                self.called_by_model(call, self.calls_made + number, turn=1, step=1),
                EXPECTED_RESULT,
            )
            for number, call in enumerate(calls, start=1)
        ]

    def called_by_user(self, call: ToolCall, number: int) -> ToolCalled:
        """Return the event of a call of the user's, the run's `number`th call.

        Raise ToolError if the arguments cannot be written as JSON.
        """
        arguments = dict(plain_value(call.arguments))
        try:
            called = {"name": call.name, "arguments": arguments}
            json.dumps(called, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise ToolError(f"the arguments of {call.name} cannot be recorded: {error}") from None
        return ToolCalled(call_id=call_id(number), name=call.name, arguments=arguments)

    def called_by_model(self, call: ParsedCall, number: int, *, turn: int, step: int) -> ToolCalled:
        """Return the event of a call that the model wrote, the run's `number`th call."""
        return ToolCalled(
            call_id=call_id(number),
            name=call.name,
            arguments=dict(call.arguments),
            caller=ToolCaller.MODEL,
            turn=turn,
            step=step,
            text=call.text,
        )

    def _run(self, called: ToolCalled, *, error: str = "") -> tuple[NewMessage, ToolResult]:
        recorded = self.recorded_results.get(called.call_id)
        if recorded is not None and recorded[0] == called:
            result = _recorded_result(recorded[1])
        else:
            self.recorder.record(called)
            result = error_result(error) if error else self._execute(called)
            self._record(called, result)
            self._warn_of_failure(called, result)
        return self.message(called, result.content), result

    def message(self, called: ToolCalled, content: str) -> NewMessage:
        """Return the message with the result of a call."""
        call = AnsweredCall.of(called)
        return NewMessage(
            role=self.format.result_role(by_model=call.by_model),
            content=content,
            tool_call_id=called.call_id,
            call=call,
        )

    def _execute(self, called: ToolCalled) -> ToolResult:
        """Run a call. Raise the exception of the tool if the tools raise their errors.

        The call then has no recorded result: a resumed run makes it again.
        """
        try:
            with self.context():
                result = self.tools.call(called.name, called.arguments)
        except BaseException as error:
            observations = tuple(self.take_observations())
            if not isinstance(error, ToolError) or called.caller is not ToolCaller.MODEL:
                raise
            result = error_result(str(error))
        else:
            observations = tuple(self.take_observations())
        for event in observations:
            self.recorder.record(event)
        return result

    def _warn_of_failure(self, called: ToolCalled, result: ToolResult) -> None:
        """Warn of a tool that failed, and of a call of the user's that is wrong."""
        by_model = called.caller is ToolCaller.MODEL
        if result.error is None or (by_model and not result.traceback):
            return
        turn = self.recorder.last_turn + (not by_model)
        # Causes come first; the first frame of the exception itself is in the tool.
        frame = _FRAME.search(result.traceback.rpartition("Traceback (most recent call last)")[2])
        where = f" ({frame[1]}, line {frame[2]})" if frame else ""
        error = single_line(result.error)
        if len(error) > _WARNING_CHARS:
            error = f"{error[:_WARNING_CHARS]}…"
        warnings.warn(
            f"tool {called.name} failed in turn {turn} ({called.call_id}): {error}{where}; "
            "the model reads this error"
            + (", and the recording has the traceback" if result.traceback else ""),
            ToolFailedWarning,
            stacklevel=2,
        )

    def _record(self, called: ToolCalled, result: ToolResult) -> None:
        sha256 = hashlib.sha256(result.payload).hexdigest()
        self.recorder.put_blob(sha256, result.payload)
        self.recorder.record(
            ToolReturned(
                call_id=called.call_id,
                name=called.name,
                content=result.content,
                content_tokens=len(
                    encode(self.tokenizer, escape_control_tokens(self.tokenizer, result.content))
                ),
                payload_sha256=sha256,
                payload_bytes=len(result.payload),
                payload_tokens=len(encode(self.tokenizer, result.payload.decode())),
                tensors=result.tensors,
                error=result.error,
                duration_us=result.duration_us,
                turn=called.turn,
                traceback=result.traceback,
            )
        )


def _recorded_result(returned: ToolReturned) -> ToolResult:
    """Return a result as recorded; `payload` is only the content, the store has the full one."""
    return ToolResult(
        content=returned.content,
        payload=returned.content.encode(),
        tensors=returned.tensors,
        error=returned.error,
        duration_us=returned.duration_us,
        traceback=returned.traceback,
    )
