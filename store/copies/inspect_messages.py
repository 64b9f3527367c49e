"""Messages and calls of the model in the classes of Inspect."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from inspect_ai.event import ModelEvent, ToolEvent
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)
from inspect_ai.tool import ToolCall, ToolCallError

from tokentape.recorder.events import StopReason, TokenSampled
from tokentape.store.copies.exported_run import (
    ExportedCall,
    ExportedMessage,
    ExportedRound,
    ExportedRun,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_STOPS = {
    StopReason.EOS: "stop",
    StopReason.STOP_STRING: "stop",
    StopReason.MAX_NEW_TOKENS: "max_tokens",
    StopReason.MAX_TIME: "max_tokens",
    StopReason.TOOL_CALL: "tool_calls",
}
_DECISION = ("decision", "reason", "prompt_tokens", "reused_tokens", "computed_tokens")


def instant(at_us: int) -> datetime:
    """Return a time of a recording."""
    return _EPOCH + timedelta(microseconds=at_us)


def id_of(run_id: str, seq: int) -> str:
    """Return the id of a message or an event: the same in every export of the run."""
    return f"{run_id}.{seq}"


def bytes_of(text: str) -> list[int]:
    """Return the UTF-8 bytes of a token's text, in which `<0xE1>` spells a byte."""
    found = bytearray()
    for part in re.split(r"(<0x[0-9A-F]{2}>)", text):
        byte = _BYTE.fullmatch(part)
        found += bytes([int(byte[1], 16)]) if byte else part.encode(errors="replace")
    return list(found)


def messages_of(run: ExportedRun) -> list[ChatMessage]:
    """Return the conversation; messages that were pruned later are in it."""
    calls = run.calls_by_id
    return [_message(run, each, calls) for each in run.messages]


def _message(
    run: ExportedRun, message: ExportedMessage, calls: Mapping[str, ExportedCall]
) -> ChatMessage:
    shared: dict[str, Any] = {
        "id": id_of(message.run_id, message.seq),
        "content": message.content,
    }
    details = dict(message.details.details) if message.details is not None else {}
    if message.role == "assistant":
        imported = message.details.tool_calls if message.details is not None else ()
        calls_made = [_call(each) for each in message.round.calls] if message.round else []
        calls_made += [
            ToolCall(
                id=str(each.get("call_id")),
                function=str(each.get("name")),
                arguments=dict(each.get("arguments") or {}),
            )
            for each in imported
        ]
        model = details.get("model") if message.round is None else run.started.model
        source: Any = None if message.round is None else "generate"
        return ChatMessageAssistant(
            **shared, tool_calls=calls_made or None, model=model or None, source=source
        )
    if message.role == "tool":
        call = calls.get(message.tool_call_id or "")
        error = call.returned.error if call is not None and call.returned is not None else None
        return ChatMessageTool(
            **shared,
            tool_call_id=message.tool_call_id,
            function=call.called.name if call is not None else details.get("name"),
            error=None if error is None else ToolCallError(type="unknown", message=error),
        )
    if message.role == "system":
        return ChatMessageSystem(**shared)
    return ChatMessageUser(**shared, source="input")


def _call(call: ExportedCall) -> ToolCall:
    called = call.called
    return ToolCall(
        id=called.call_id,
        function=called.name,
        arguments=dict(called.arguments),
        parse_error=None if called.name else "the call cannot be read",
    )


def model_event(
    run: ExportedRun, round_: ExportedRound, messages: list[ChatMessage], reply: ChatMessage | None
) -> ModelEvent:
    """Return the event of a round: its prompt, its settings, its reply and tokens."""
    finished = round_.finished
    message = reply if isinstance(reply, ChatMessageAssistant) else None
    ended = None if round_.ended_us is None else instant(round_.ended_us)
    seconds = None if finished is None else finished.duration_us / 1e6
    choice = ChatCompletionChoice(
        message=message or ChatMessageAssistant(content="", model=run.started.model or None),
        stop_reason=_stop_reason(round_),
        logprobs=_logprobs(run, round_),
    )
    output = ModelOutput(
        model=run.started.model,
        choices=[choice],
        completion=round_.text,
        usage=usage_of(round_),
        time=seconds,
        error=None if finished is not None else "the run was cut off in this reply",
    )
    return ModelEvent(
        uuid=id_of(round_.run_id, round_.seq),
        span_id=None,
        timestamp=instant(round_.at_us),
        working_start=_working_start(run, round_.at_us),
        completed=ended,
        working_time=seconds,
        model=run.started.model or "unknown",
        input=[messages[each] for each in round_.prompt],
        tools=[],
        tool_choice="auto",
        config=_config(round_),
        output=output,
        error=output.error,
        metadata={"tokentape": round_facts(run, round_)},
    )


def tool_event(run: ExportedRun, call: ExportedCall) -> ToolEvent:
    """Return the event of a tool call."""
    returned = call.returned
    error = None if returned is None else returned.error
    facts: dict[str, Any] = {"run_id": call.run_id, "seq": call.seq, "caller": call.called.caller}
    if returned is not None:
        facts |= {
            "content_tokens": returned.content_tokens,
            "payload_sha256": returned.payload_sha256,
            "payload_bytes": returned.payload_bytes,
            "tensors": [dict(each) for each in returned.tensors],
        }
    return ToolEvent(
        uuid=id_of(call.run_id, call.seq),
        timestamp=instant(call.at_us),
        working_start=_working_start(run, call.at_us),
        completed=None if call.ended_us is None else instant(call.ended_us),
        working_time=None if returned is None else returned.duration_us / 1e6,
        id=call.called.call_id,
        function=call.called.name,
        arguments=dict(call.called.arguments),
        result="" if returned is None else returned.content,
        error=None if error is None else ToolCallError(type="unknown", message=error),
        metadata={"tokentape": facts},
    )


def round_facts(run: ExportedRun, round_: ExportedRound) -> dict[str, Any]:
    """Return what no field of a model call holds: the place in the run, the cache, the seed."""
    started = round_.started
    facts: dict[str, Any] = {
        "run_id": round_.run_id,
        "store": run.where,
        "seq": round_.seq,
        "turn": started.turn,
        "first_step": started.first_step,
        "seed": started.seed,
        "history_reason": started.history_reason,
        "forced_tokens": len(started.forced_ids),
    }
    if round_.finished is not None:
        facts["stop_reason"] = round_.finished.stop_reason
    if round_.cache is not None:
        facts["cache"] = {name: getattr(round_.cache, name) for name in _DECISION}
    if round_.prefill is not None:
        facts["prefill_us"] = round_.prefill.duration_us
    if round_.pruned is not None:
        facts["pruned_tokens"] = round_.pruned.tokens_before - round_.pruned.tokens_after
    return facts


def usage_of(round_: ExportedRound) -> ModelUsage:
    """Return the tokens of a round; Inspect counts those from the cache apart."""
    prompt, reused = round_.started.prompt_tokens, 0
    if round_.cache is not None:
        reused = round_.cache.reused_tokens
    return ModelUsage(
        input_tokens=prompt - reused,
        input_tokens_cache_read=reused,
        output_tokens=len(round_.tokens),
        total_tokens=prompt + len(round_.tokens),
    )


def _working_start(run: ExportedRun, at_us: int) -> float:
    return max(at_us - run.started_us, 0) / 1e6


def _stop_reason(round_: ExportedRound) -> Any:
    if round_.finished is None:
        return "unknown"
    return (
        _STOPS.get(StopReason(round_.finished.stop_reason), "stop")
        if (round_.finished.stop_reason in set(StopReason))
        else "stop"
    )


def _config(round_: ExportedRound) -> GenerateConfig:
    sampling = round_.started.sampling
    sampled = bool(sampling.get("do_sample"))
    candidates = max((len(each.top_ids) for each in round_.tokens), default=0)
    stops = sampling.get("stop_strings")
    return GenerateConfig(
        max_tokens=_whole(sampling.get("max_new_tokens")),
        # Greedy generation ignores the temperature, whatever the config says.
        temperature=_number(sampling.get("temperature")) if sampled else 0.0,
        top_p=_number(sampling.get("top_p")) if sampled else None,
        top_k=_whole(sampling.get("top_k")) if sampled else None,
        seed=round_.started.seed,
        stop_seqs=[stops] if isinstance(stops, str) else list(stops) if stops else None,
        logprobs=True if round_.tokens else None,
        top_logprobs=candidates or None,
    )


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _logprobs(run: ExportedRun, round_: ExportedRound) -> Logprobs | None:
    if not round_.tokens:
        return None
    return Logprobs(content=[_logprob(run, round_, each) for each in round_.tokens])


def _logprob(run: ExportedRun, round_: ExportedRound, token: TokenSampled) -> Logprob:
    text, spelled = _spelled(run, round_, token.token_id)
    top = []
    for token_id, logprob in zip(token.top_ids, token.top_logprobs, strict=True):
        name, raw = _spelled(run, round_, token_id)
        top.append(TopLogprob.model_construct(token=name, logprob=logprob, bytes=raw))
    return Logprob.model_construct(
        token=text, logprob=token.logprob, bytes=spelled, top_logprobs=top or None
    )


def _spelled(
    run: ExportedRun, round_: ExportedRound, token_id: int
) -> tuple[str, list[int] | None]:
    """Return the text of a token and its bytes; a token without a recorded text has its id."""
    text = run.text_of(round_, token_id)
    return (f"<token {token_id}>", None) if text is None else (text, bytes_of(text))
