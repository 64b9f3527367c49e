"""Recorded tool calls run again, and the fields in which their results differ today."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokentape.generation.tools.interface import ToolInterface, ToolResult
from tokentape.generation.tools.sources import warn_of_source_changes
from tokentape.recorder import Recording
from tokentape.recorder.events import ToolCalled, ToolReturned
from tokentape.recorder.events.tool import NOT_RUN
from tokentape.replay.recorded.loaded_run import LoadedRun, load_run
from tokentape.replay.results.errors import NothingToReplayError
from tokentape.replay.results.json_fields import json_excerpts, unequal_fields, unequal_texts
from tokentape.replay.results.report import Cause, Report, ToolDrift
from tokentape.replay.results.verdict import CauseKind, Verdict, worst


def rerun_tools(
    recording: Recording | LoadedRun,
    tools: ToolInterface,
    *,
    turns: Sequence[int] | None = None,
    seconds_max: float | None = None,
) -> tuple[ToolDrift, ...]:
    """Run every recorded tool call again and return each field of a result that differs.

    Durations are not compared. A tool that is missing, raises, returns no JSON, or does not answer
    within `seconds_max` (by default its own limit) drifts in its `error`; its other fields are then
    not compared. Calls without a recorded result are not repeated. A tool whose source is not the
    recorded one gives a ToolSourceWarning.

    Tools run in a thread of their own, and one that does not answer stays in it. Raise
    NothingToReplayError for a redacted run, whose arguments were rewritten.
    """
    run = load_run(recording)
    warn_of_source_changes(run.started.tool_sources, tools.sources())
    drifts: list[ToolDrift] = []
    for turn, called, returned in _answered_calls(run):
        if turns is None or turn in turns:
            result = tools.call(called.name, called.arguments, seconds_max=seconds_max)
            drifts += _drifts(turn, called, returned, result)
    return tuple(drifts)


def with_drifts(report: Report, drifts: Sequence[ToolDrift]) -> Report:
    """Return the report with the drifts of tools added; any drift makes it at least drifted."""
    if not drifts:
        return report
    more = "" if len(drifts) == 1 else f", and {len(drifts) - 1} more"
    sentence = f"a tool gives something else today: {describe_drift(drifts[0])}{more}"
    cause = Cause(name=CauseKind.TOOL_RESULT, sentence=sentence, turn=drifts[0].turn)
    return replace(
        report,
        verdict=worst([report.verdict, Verdict.DRIFTED]),
        reason=sentence if report.passes else report.reason,
        causes=(*report.causes, cause),
        tools=tuple(drifts),
    )


def describe_drift(drift: ToolDrift) -> str:
    """Return a drift as one sentence, with its size if both sides are numbers."""
    size = drift_size(drift)
    by = "" if size is None else f" ({size:+.4g})"
    return (
        f"turn {drift.turn}, {drift.tool} ({drift.call_id}): {drift.field} was {drift.recorded}, "
        f"is {drift.replayed}{by}"
    )


def drift_size(drift: ToolDrift) -> float | None:
    """Return today's number minus the recorded one, or None if a side is not a number."""
    sides = []
    for text in (drift.recorded, drift.replayed):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        sides.append(value)
    try:
        return float(sides[1] - sides[0])
    except OverflowError:
        return None


def _answered_calls(run: LoadedRun) -> Iterator[tuple[int, ToolCalled, ToolReturned]]:
    if run.started.redacted:
        raise NothingToReplayError(
            f"run {run.run_id} was redacted: the arguments of its tool calls are not those that "
            "were given"
        )
    called: dict[str, ToolCalled] = {}
    for turn, event in run.tool_events():
        if isinstance(event, ToolCalled):
            called[event.call_id] = event
        elif isinstance(event, ToolReturned) and event.call_id in called:
            call = called.pop(event.call_id)
            # Calls that could not be parsed, or exceeded the limit, were not run when recorded.
            if call.name and not (event.error or "").startswith(NOT_RUN):
                yield turn, call, event


def _drifts(
    turn: int, called: ToolCalled, returned: ToolReturned, result: ToolResult
) -> Iterator[ToolDrift]:
    if result.error != returned.error:
        unequal = unequal_fields("error", returned.error, result.error)
    else:
        unequal = (
            *unequal_texts("content", returned.content, result.content),
            *unequal_fields("payload_sha256", returned.payload_sha256, _sha256(result.payload)),
            *unequal_fields("tensors", _by_name(returned.tensors), _tensors(result.tensors)),
        )
    for each in unequal:
        recorded, replayed = json_excerpts(each)
        yield ToolDrift(
            turn=turn,
            call_id=called.call_id,
            tool=called.name,
            field=each.field,
            recorded=recorded,
            replayed=replayed,
        )


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _tensors(tensors: Any) -> Any:
    """Return tensors by name, with the types that a recording would return."""
    return _by_name(json.loads(json.dumps(tensors)))


def _by_name(tensors: Any) -> Any:
    """Return a mapping from the name of each tensor, or a list if names are not unique."""
    if not isinstance(tensors, list | tuple):
        return tensors
    names = [each.get("name") if isinstance(each, Mapping) else None for each in tensors]
    if len(set(map(repr, names))) < len(names) or not all(isinstance(n, str) for n in names):
        return list(tensors)
    return {name: dict(each) for name, each in zip(names, tensors, strict=True)}
