"""A run as a sample of Inspect: messages, events, scores."""

from collections.abc import Iterable, Sequence
from typing import Any

from inspect_ai.event import (
    Event,
    SampleInitEvent,
    ScoreEvent,
    SpanBeginEvent,
    SpanEndEvent,
)
from inspect_ai.log import EvalError, EvalSample
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ModelOutput, ModelUsage
from inspect_ai.scorer import Score

from tokentape.recorder.events import RunFailed
from tokentape.store.attachments import StoredVerdict
from tokentape.store.copies.exported_run import ExportedRun
from tokentape.store.copies.inspect_messages import (
    id_of,
    instant,
    messages_of,
    model_event,
    tool_event,
    usage_of,
)
from tokentape.store.source import Attachments


def sample_of(run: ExportedRun, attached: Attachments) -> EvalSample:
    """Return a run as a sample, with its verdicts as scores."""
    messages = messages_of(run)
    verdicts = attached.verdicts(run.run_id)
    sample_id, epoch = identity_of(run)
    scores = {each.replay: score_of(each) for each in verdicts}
    events = events_of(run, messages, verdicts)
    return EvalSample(
        id=sample_id,
        epoch=epoch,
        input=_first_input(messages),
        target=str(run.imported.metadata.get("target", "")) if run.imported is not None else "",
        messages=messages,
        output=output_of(run, messages),
        scores=scores or None,
        metadata=metadata_of(run),
        events=events,
        model_usage=model_usage_of(run),
        started_at=instant(run.started_us).isoformat(),
        completed_at=instant(run.ended_us).isoformat(),
        total_time=max(run.ended_us - run.started_us, 0) / 1e6,
        working_time=_working_us(run) / 1e6,
        uuid=run.run_id,
        error=error_of(run),
    )


def identity_of(run: ExportedRun) -> tuple[str, int]:
    """Return the id and the epoch of a run: its own in a data set, if it has them, else its id."""
    own: dict[str, Any] = dict(run.started.settings.get("metadata") or {})
    if run.imported is not None:
        own = {"sample_id": run.imported.sample, "epoch": run.imported.metadata.get("epoch")}
    sample_id, epoch = own.get("sample_id"), own.get("epoch")
    is_epoch = isinstance(epoch, int) and not isinstance(epoch, bool) and epoch > 0
    if not isinstance(sample_id, str | int) or isinstance(sample_id, bool) or sample_id == "":
        return run.run_id, 1
    return str(sample_id), epoch if is_epoch and epoch is not None else 1


def _first_input(messages: Sequence[ChatMessage]) -> str | list[ChatMessage]:
    """Return what the conversation began with: the messages up to the first of the user."""
    given = [each for each in messages if each.role in ("system", "user")]
    for at, each in enumerate(given):
        if each.role == "user":
            return given[: at + 1]
    return ""


def output_of(run: ExportedRun, messages: list[ChatMessage]) -> ModelOutput:
    """Return the last reply."""
    replies = [each for each in messages if isinstance(each, ChatMessageAssistant)]
    if not replies:
        return ModelOutput(model=run.started.model)
    return ModelOutput.from_message(replies[-1].model_copy(update={"model": run.started.model}))


def metadata_of(run: ExportedRun) -> dict[str, Any]:
    """Return the metadata that the run was given, and under `tokentape` what leads back to it."""
    started, plan = run.started, run.started.settings.get("plan")
    status = "running" if run.ended is None else run.ended.status
    facts: dict[str, Any] = {
        "run_id": run.run_id,
        "store": run.where,
        "run": run.url,
        "name": started.name,
        "status": status,
        "model": started.model,
        "seed": started.seed,
        "plan": plan.get("name") if isinstance(plan, dict) else None,
        "weights_sha256": started.weights_sha256,
        "dtype": started.dtype,
        "device": started.device,
        "attention_kernel": started.attention_kernel,
        "tokentape_version": started.tokentape_version,
        "redacted": started.redacted,
    }
    if run.forked is not None:
        facts["forked_from"] = {
            "run_id": run.forked.parent_run_id,
            "turn": run.forked.at_turn,
            "token": run.forked.at_token,
        }
    own = dict(started.settings.get("metadata") or {})
    if run.imported is not None:
        own = dict(run.imported.metadata)
        facts["imported_from"] = run.imported.place
    return {**own, "tokentape": facts}


def model_usage_of(run: ExportedRun) -> dict[str, ModelUsage]:
    """Return the tokens of the run's own rounds; those that a fork shares are the parent's."""
    own = [usage_of(each) for each in run.rounds if each.run_id == run.run_id]
    if not own:
        return {}
    total = own[0]
    for each in own[1:]:
        total = total + each
    return {run.started.model or "unknown": total}


def score_of(verdict: StoredVerdict) -> Score:
    """Return a verdict as a score."""
    names = ("model", "tokens", "mismatches", "near_ties", "floor")
    figures = {name: verdict.report[name] for name in names if name in verdict.report}
    reason = verdict.report.get("reason")
    return Score(
        value=verdict.verdict,
        explanation=reason if isinstance(reason, str) and reason else None,
        metadata={"at": instant(verdict.at_us).isoformat(), **figures},
    )


def error_of(run: ExportedRun) -> EvalError | None:
    """Return the error of a run that failed."""
    if not isinstance(run.ended, RunFailed):
        return None
    return EvalError(
        message=run.ended.error_text,
        traceback=run.ended.traceback,
        traceback_ansi=run.ended.traceback,
    )


def events_of(
    run: ExportedRun, messages: list[ChatMessage], verdicts: Iterable[StoredVerdict]
) -> list[Event]:
    """Return the events of a run: a span for each turn with its model and tool calls, scores."""
    replies = {
        id(each.round): message
        for each, message in zip(run.messages, messages, strict=True)
        if each.round is not None
    }
    timed: list[tuple[tuple[str, int], int, Event]] = []
    for each in run.rounds:
        called = model_event(run, each, messages, replies.get(id(each)))
        timed.append(((each.run_id, each.seq), each.started.turn, called))
    by_round = {
        (call.run_id, call.seq): each.started.turn for each in run.rounds for call in each.calls
    }
    for call in run.calls:
        place = (call.run_id, call.seq)
        turn = by_round.get(place, _next_turn(run, call.at_us))
        timed.append((place, turn, tool_event(run, call)))
    timed.sort(key=lambda each: (each[2].timestamp, each[0][1]))
    events: list[Event] = [_init_event(run, messages)]
    open_turn: int | None = None
    for _, turn, event in timed:
        if turn != open_turn:
            if open_turn is not None:
                events.append(_span_end(run, open_turn, events[-1]))
            events.append(_span_begin(run, turn, event))
            open_turn = turn
        event.span_id = _span_id(run, turn)
        events.append(event)
    if open_turn is not None:
        events.append(_span_end(run, open_turn, events[-1]))
    for number, verdict in enumerate(verdicts):
        events.append(
            ScoreEvent(
                uuid=f"{run.run_id}.verdict.{number}",
                timestamp=instant(verdict.at_us),
                working_start=0.0,
                score=score_of(verdict),
                scorer=verdict.replay,
            )
        )
    return events


def _next_turn(run: ExportedRun, at_us: int) -> int:
    """Return the turn whose prompt a result is in: the user called the tool between turns."""
    turns = [each.started.turn for each in run.rounds]
    return next(
        (each.started.turn for each in run.rounds if each.at_us >= at_us), max(turns, default=1)
    )


def _init_event(run: ExportedRun, messages: list[ChatMessage]) -> Event:
    from inspect_ai.dataset import Sample

    sample_id, _ = identity_of(run)
    return SampleInitEvent(
        uuid=id_of(run.run_id, 0),
        timestamp=instant(run.started_us),
        working_start=0.0,
        sample=Sample(input=_first_input(messages), id=sample_id),
        state={},
    )


def _span_id(run: ExportedRun, turn: int) -> str:
    return f"{run.run_id}.turn.{turn}"


def _span_begin(run: ExportedRun, turn: int, first: Event) -> Event:
    span = _span_id(run, turn)
    return SpanBeginEvent(
        uuid=f"{span}.begin",
        span_id=span,
        timestamp=first.timestamp,
        working_start=first.working_start,
        id=span,
        name=f"turn {turn}",
    )


def _span_end(run: ExportedRun, turn: int, last: Event) -> Event:
    span = _span_id(run, turn)
    ended = getattr(last, "completed", None) or last.timestamp
    return SpanEndEvent(
        uuid=f"{span}.end",
        span_id=span,
        timestamp=ended,
        working_start=last.working_start,
        id=span,
    )


def _working_us(run: ExportedRun) -> int:
    rounds = [each.finished.duration_us for each in run.rounds if each.finished is not None]
    calls = [each.returned.duration_us for each in run.calls if each.returned is not None]
    return sum(rounds) + sum(calls)
