"""A run as spans of OpenTelemetry, by the conventions for generative AI."""

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from tokentape.recorder.events import RunFailed, StopReason
from tokentape.store.attachments import StoredVerdict
from tokentape.store.copies.exported_run import (
    ExportedCall,
    ExportedMessage,
    ExportedRound,
    ExportedRun,
)

PROVIDER = "huggingface.transformers"
"""`gen_ai.provider.name`: the conventions list services, and allow other names."""
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""The release of the conventions that the names of attributes are from."""
_FINISH = {
    StopReason.MAX_NEW_TOKENS: "length",
    StopReason.MAX_TIME: "length",
    StopReason.TOOL_CALL: "tool_call",
}
_REQUESTED = {
    "max_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
}


def trace_id_of(run_id: str) -> int:
    """Return the id of a run's trace: the bits of its UUID, so that each export has the same."""
    try:
        number = uuid.UUID(run_id).int
    except ValueError:
        number = 0
    return number or int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:16])


def span_id_of(run_id: str, seq: int) -> int:
    """Return the id of the span that begins with an event of a run."""
    digest = hashlib.sha256(f"{run_id} {seq}".encode()).digest()
    return int.from_bytes(digest[:8]) or 1


def spans_of(
    run: ExportedRun, verdicts: Sequence[StoredVerdict], *, content: bool
) -> Iterator[ReadableSpan]:
    """Yield the spans of a run: the run, and under it its calls of the model and of tools.

    What a fork shares is in the trace of its parent, to which the span of the fork has a link.
    Texts are there only with `content`.
    """
    maker = _SpanMaker(run)
    yield maker.run(verdicts)
    replies = {id(each.round): each for each in run.messages if each.round is not None}
    for each in run.rounds:
        if each.run_id == run.run_id:
            yield maker.round(each, replies.get(id(each)), content=content)
    for call in run.calls:
        if call.run_id == run.run_id:
            yield maker.call(call, content=content)


class _SpanMaker:
    """Makes the spans of one run."""

    def __init__(self, run: ExportedRun) -> None:
        self._run = run
        self._resource = Resource(
            {"service.name": "tokentape", "service.version": version("tokentape")}
        )
        self._scope = InstrumentationScope("tokentape", version("tokentape"), SCHEMA_URL)

    def run(self, verdicts: Sequence[StoredVerdict]) -> ReadableSpan:
        run = self._run
        failed = isinstance(run.ended, RunFailed)
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.agent.name": run.started.name,
            "gen_ai.conversation.id": run.run_id,
            "gen_ai.request.model": run.started.model,
            "tokentape.status": "running" if run.ended is None else run.ended.status,
            "tokentape.weights.sha256": run.started.weights_sha256,
            "tokentape.dtype": run.started.dtype,
            "tokentape.device": run.started.device,
            **self._place(0),
        }
        if run.started.seed is not None:
            attributes["gen_ai.request.seed"] = run.started.seed
        if isinstance(run.ended, RunFailed):
            attributes["error.type"] = run.ended.error or "RunFailed"
        if run.imported is not None:
            attributes["tokentape.imported_from"] = run.imported.place
        links = []
        if run.forked is not None:
            parent = run.forked.parent_run_id
            facts: dict[str, Any] = {
                "tokentape.run.id": parent,
                "tokentape.forked_at_turn": run.forked.at_turn,
            }
            links = [Link(_context(parent, 0), facts)]
        return self._span(
            f"invoke_agent {run.started.name}".strip(),
            seq=0,
            times=(run.started_us, run.ended_us),
            attributes=attributes,
            events=[_evaluation(each) for each in verdicts],
            links=links,
            is_error=failed,
        )

    def round(
        self, round_: ExportedRound, reply: ExportedMessage | None, *, content: bool
    ) -> ReadableSpan:
        run, finished = self._run, round_.finished
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.conversation.id": run.run_id,
            "gen_ai.request.model": run.started.model,
            "gen_ai.response.model": run.started.model,
            "gen_ai.usage.input_tokens": round_.started.prompt_tokens,
            "gen_ai.usage.output_tokens": len(round_.tokens),
            "tokentape.turn": round_.started.turn,
            "tokentape.first_step": round_.started.first_step,
            **self._requested(round_),
            **self._place(round_.seq),
        }
        if round_.cache is not None:
            attributes |= {
                "gen_ai.usage.cache_read.input_tokens": round_.cache.reused_tokens,
                "tokentape.cache.decision": str(round_.cache.decision),
                "tokentape.cache.reason": round_.cache.reason,
            }
        if round_.prefill is not None:
            attributes["tokentape.prefill_us"] = round_.prefill.duration_us
        reason = "error" if finished is None else _finish_reason(finished.stop_reason)
        if finished is not None:
            attributes["gen_ai.response.finish_reasons"] = (reason,)
            attributes["tokentape.stop_reason"] = finished.stop_reason
        else:
            attributes["error.type"] = "cut_off"
        if content:
            given = [run.messages[each] for each in round_.prompt]
            attributes["gen_ai.input.messages"] = _json([self._said(each) for each in given])
            if reply is not None:
                said = self._said(reply) | {"finish_reason": reason}
                attributes["gen_ai.output.messages"] = _json([said])
        ended = round_.ended_us
        if ended is None:
            ended = round_.at_us + sum(each.duration_us for each in round_.tokens)
        return self._span(
            f"chat {run.started.model}".strip(),
            seq=round_.seq,
            times=(round_.at_us, ended),
            attributes=attributes,
            kind=SpanKind.CLIENT,
            is_error=finished is None,
        )

    def call(self, call: ExportedCall, *, content: bool) -> ReadableSpan:
        called, returned = call.called, call.returned
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": called.name,
            "gen_ai.tool.call.id": called.call_id,
            "gen_ai.tool.type": "function",
            "gen_ai.conversation.id": self._run.run_id,
            "tokentape.tool.caller": str(called.caller),
            **self._place(call.seq),
        }
        failed = returned is None or returned.error is not None
        if failed:
            attributes["error.type"] = "tool_error" if returned is not None else "no_result"
        if content:
            attributes["gen_ai.tool.call.arguments"] = _json(dict(called.arguments))
            if returned is not None:
                attributes["gen_ai.tool.call.result"] = returned.content
        return self._span(
            f"execute_tool {called.name}".strip(),
            seq=call.seq,
            times=(call.at_us, call.ended_us or call.at_us),
            attributes=attributes,
            is_error=failed,
        )

    def _place(self, seq: int) -> dict[str, Any]:
        """Return the link to the recording, where the tokens are."""
        run = self._run
        return {
            "tokentape.store": run.where,
            "tokentape.run.id": run.run_id,
            "tokentape.run.url": run.url,
            "tokentape.seq": seq,
        }

    def _requested(self, round_: ExportedRound) -> dict[str, Any]:
        sampling = round_.started.sampling
        names = dict(_REQUESTED) if sampling.get("do_sample") else {"max_tokens": "max_new_tokens"}
        found = {f"gen_ai.request.{to}": sampling.get(name) for to, name in names.items()}
        found = {
            name: value
            for name, value in found.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        if round_.started.seed is not None:
            found["gen_ai.request.seed"] = round_.started.seed
        stops = sampling.get("stop_strings")
        if stops:
            found["gen_ai.request.stop_sequences"] = (
                (stops,) if isinstance(stops, str) else tuple(map(str, stops))
            )
        return found

    def _said(self, message: ExportedMessage) -> dict[str, Any]:
        """Return a message as the conventions write it: a role and parts."""
        parts: list[dict[str, Any]] = []
        if message.role == "tool":
            result = {"type": "tool_call_response", "response": message.content}
            parts.append(result | {"id": message.tool_call_id})
        elif message.content:
            parts.append({"type": "text", "content": message.content})
        for call in message.round.calls if message.round is not None else ():
            called = call.called
            parts.append(
                {"type": "tool_call", "id": called.call_id, "name": called.name}
                | {"arguments": dict(called.arguments)}
            )
        return {"role": message.role, "parts": parts}

    def _span(
        self,
        name: str,
        *,
        seq: int,
        times: tuple[int, int],
        attributes: dict[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
        events: Sequence[Event] = (),
        links: Sequence[Link] = (),
        is_error: bool = False,
    ) -> ReadableSpan:
        started_us, ended_us = times
        return ReadableSpan(
            name=name,
            context=_context(self._run.run_id, seq),
            parent=_context(self._run.run_id, 0) if seq else None,
            resource=self._resource,
            attributes=attributes,
            events=events,
            links=links,
            kind=kind,
            status=Status(StatusCode.ERROR if is_error else StatusCode.UNSET),
            start_time=started_us * 1_000,
            end_time=max(started_us, ended_us) * 1_000,
            instrumentation_scope=self._scope,
        )


def _context(run_id: str, seq: int) -> SpanContext:
    return SpanContext(
        trace_id_of(run_id),
        span_id_of(run_id, seq),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _evaluation(verdict: StoredVerdict) -> Event:
    """Return a verdict as an event of the run's span."""
    attributes: dict[str, Any] = {
        "gen_ai.evaluation.name": verdict.replay,
        "gen_ai.evaluation.score.label": verdict.verdict,
    }
    reason = verdict.report.get("reason")
    if isinstance(reason, str) and reason:
        attributes["gen_ai.evaluation.explanation"] = reason
    return Event("gen_ai.evaluation.result", attributes, verdict.at_us * 1_000)


def _finish_reason(stop_reason: str) -> str:
    known = {str(each): text for each, text in _FINISH.items()}
    return known.get(stop_reason, "stop")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
