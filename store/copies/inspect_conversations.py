"""The messages of a sample of Inspect, with what its log says of each."""

import json
from collections.abc import Mapping
from typing import Any

from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import ChatMessage as InspectMessage
from inspect_ai.model import ChatMessageAssistant, ChatMessageTool, ModelOutput

from tokentape.recorder.chat_messages import ChatMessage, ChatToolCall
from tokentape.store.copies.conversations import ForeignMessage

_TEXT, _REASONING = "text", "reasoning"


def foreign_messages(sample: EvalSample) -> list[ForeignMessage]:
    """Return the messages of a sample; those of the model with their log-probabilities, if any."""
    outputs = _outputs(sample)
    return [_foreign(each, outputs) for each in sample.messages]


def metadata_of_sample(log: EvalLog, sample: EvalSample) -> dict[str, Any]:
    """Return what a log says of a sample, besides its messages."""
    scores = {
        name: score.model_dump(mode="json", exclude_none=True, exclude={"history"})
        for name, score in (sample.scores or {}).items()
    }
    facts: dict[str, Any] = {
        "epoch": sample.epoch,
        "uuid": sample.uuid,
        "target": sample.target,
        "scores": scores,
        "sample_metadata": sample.metadata,
        "error": None if sample.error is None else sample.error.message,
        "task": log.eval.task,
        "eval_id": log.eval.eval_id,
        "config": log.plan.config.model_dump(mode="json", exclude_none=True),
    }
    kept = {name: each for name, each in facts.items() if each not in (None, {}, "", [])}
    # NaN, which Inspect writes for a missing score, is no JSON.
    return dict(json.loads(json.dumps(kept, default=str), parse_constant=str))


def _outputs(sample: EvalSample) -> dict[str, ModelOutput]:
    """Return the outputs of the model by the ids of their messages."""
    outputs = [each.output for each in sample.events if each.event == "model"]
    found: dict[str, ModelOutput] = {}
    for output in (sample.output, *outputs):
        if output.choices and output.choices[0].message.id:
            found[output.choices[0].message.id] = output
    return found


def _foreign(message: InspectMessage, outputs: Mapping[str, ModelOutput]) -> ForeignMessage:
    details: dict[str, Any] = dict(_other_content(message))
    logprobs: list[dict[str, Any]] = []
    calls: tuple[ChatToolCall, ...] = ()
    unparsed: dict[str, str] = {}
    if message.metadata:
        details["metadata"] = message.metadata
    if isinstance(message, ChatMessageAssistant):
        calls = tuple(
            ChatToolCall(call_id=each.id, name=each.function, arguments=each.arguments)
            for each in message.tool_calls or ()
        )
        unparsed = {
            each.id: each.parse_error for each in message.tool_calls or () if each.parse_error
        }
        output = outputs.get(message.id or "")
        if output is not None:
            choice = output.choices[0]
            if choice.logprobs is not None:
                logprobs = [each.model_dump(exclude_none=True) for each in choice.logprobs.content]
            details["stop_reason"] = choice.stop_reason
            if output.usage is not None:
                details["usage"] = output.usage.model_dump(exclude_none=True)
            if output.time is not None:
                details["seconds"] = output.time
        if message.model:
            details["model"] = message.model
    if isinstance(message, ChatMessageTool):
        if message.function:
            details["name"] = message.function
        if message.error is not None:
            details["error"] = message.error.message
    return ForeignMessage(
        message=ChatMessage(
            role=message.role,
            content=message.text,
            tool_calls=calls,
            tool_call_id=(message.tool_call_id or "")
            if isinstance(message, ChatMessageTool)
            else None,
        ),
        unparsed=unparsed,
        logprobs=_plain(logprobs),
        details=_plain(details),
    )


def _other_content(message: InspectMessage) -> dict[str, Any]:
    """Return the reasoning of a message, and the types of its content that is no text."""
    if isinstance(message.content, str):
        return {}
    found: dict[str, Any] = {}
    reasoning = [
        getattr(each, "reasoning", "") for each in message.content if each.type == _REASONING
    ]
    others = [each.type for each in message.content if each.type not in (_TEXT, _REASONING)]
    if reasoning:
        found["reasoning"] = "\n".join(reasoning)
    if others:
        found["left_out"] = others
    return found


def _plain(value: Any) -> Any:
    """Return values as JSON has them; NaN and infinity, which it lacks, as text."""
    return json.loads(json.dumps(value, default=str), parse_constant=str)
