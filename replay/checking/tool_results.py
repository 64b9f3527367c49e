"""Tool results replayed: what the tools say today, and whether the recording contradicts itself."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokentape.generation.tools.interface import ToolInterface, ToolResult
from tokentape.generation.tools.runner import NOT_RUN
from tokentape.recorder import Recording
from tokentape.recorder.envelope import TurnCounter
from tokentape.recorder.events import MessageAdded, ToolCalled, ToolReturned
from tokentape.replay.errors import NothingToReplayError
from tokentape.replay.run_diff.diff_types import UnequalField
from tokentape.replay.run_diff.json_fields import unequal_fields, unequal_texts
from tokentape.replay.verdict import Cause, Report, ToolDrift, Verdict, worst
from tokentape.store import StoreError

MISSING = "missing"
"""A side of a drift that has no such field; JSON has no such word."""

_TEXT_CHARS_MAX = 400
_TEXT_CHARS_BEFORE = 80


def rerun_tools(
    recording: Recording,
    tools: ToolInterface,
    *,
    turns: Sequence[int] | None = None,
    seconds_max: float | None = None,
) -> tuple[ToolDrift, ...]:
    """Call every tool again as it was called, and compare what it gives with what was recorded.

    Every field that differs is a drift; how long the tool took is not looked at. Values are
    written as JSON, long texts as the part in which they begin to differ. A tool that is missing,
    raises, gives what is no JSON, or has no answer after `seconds_max` (unless given, its own
    limit) has drifted in its `error`; its other fields then only follow. Calls of which nothing
    came back are not repeated.

    Tools run in a thread of their own; one that does not answer is left behind in it. Raises
    NothingToReplayError for a redacted run: its arguments are not those that were given.
    """
    drifts: list[ToolDrift] = []
    for turn, called, returned in _answered(recording):
        if turns is None or turn in turns:
            again = tools.call(called.name, called.arguments, seconds_max=seconds_max)
            drifts += _drifts(turn, called, returned, again)
    return tuple(drifts)


def with_drifts(report: Report, drifts: Sequence[ToolDrift]) -> Report:
    """The report with what tools gave when they were run again; it drifts where they did."""
    if not drifts:
        return report
    more = "" if len(drifts) == 1 else f", and {len(drifts) - 1} more"
    sentence = f"a tool gives something else today: {describe_drift(drifts[0])}{more}"
    cause = Cause(name="tool_result", sentence=sentence, turn=drifts[0].turn)
    return replace(
        report,
        verdict=worst([report.verdict, Verdict.DRIFTED]),
        reason=sentence if report.passes else report.reason,
        causes=(*report.causes, cause),
        tools=tuple(drifts),
    )


def describe_drift(drift: ToolDrift) -> str:
    """A drift in a sentence, with how large it is where both sides are numbers."""
    size = drift_size(drift)
    by = "" if size is None else f" ({size:+.4g})"
    return (
        f"turn {drift.turn}, {drift.tool} ({drift.call_id}): {drift.field} was {drift.recorded}, "
        f"is {drift.replayed}{by}"
    )


def drift_size(drift: ToolDrift) -> float | None:
    """What today's number is more than the recorded one; None where one side is no number."""
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


def altered_tool_results(recording: Recording) -> list[tuple[int, str]]:
    """Where a tool's result contradicts what else is recorded of it: the turn, and a sentence.

    The message that was put before the model must have the content that the tool returned, and
    name a call that was made and came back. Where payloads are at hand, each must be the one that
    was returned. A call that was interrupted contradicts nothing, nor does a
    result that was never put before the model: its prompt may have been refused.
    """
    found: list[tuple[int, str]] = []
    called: dict[str, ToolCalled] = {}
    returned: dict[str, ToolReturned] = {}
    redacted = recording.started().redacted
    for turn, event in _tool_events(recording):
        if isinstance(event, ToolCalled):
            called[event.call_id] = event
            returned.pop(event.call_id, None)
            continue
        if isinstance(event, ToolReturned):
            sentences = _contradictions_of_return(event, called.get(event.call_id), recording)
            returned[event.call_id] = event
        elif redacted:
            # Each text was rewritten by itself, and not every redactor writes the same twice.
            continue
        else:
            sentences = _contradictions_of_message(event, called, returned)
        found += ((turn, sentence) for sentence in sentences)
    return found


def _tool_events(
    recording: Recording,
) -> Iterator[tuple[int, ToolCalled | ToolReturned | MessageAdded]]:
    """What has to do with tools, and the turn that it belongs to."""
    turns = TurnCounter()
    for envelope in recording.events():
        event = envelope.event
        turn = turns.turn_of(event)
        if turn is None or not isinstance(event, ToolCalled | ToolReturned | MessageAdded):
            continue
        if not isinstance(event, MessageAdded) or event.tool_call_id is not None:
            yield turn, event


def _contradictions_of_return(
    event: ToolReturned, call: ToolCalled | None, recording: Recording
) -> Iterator[str]:
    whose = f"the result of {event.name} ({event.call_id})"
    if call is None:
        yield f"{whose} answers a call that was not made"
    elif call.name != event.name:
        yield f"{whose} answers a call of {call.name}"
    # A redacted payload may have no sum.
    if recording.read_blob is None or not event.payload_sha256:
        return
    try:
        payload = recording.read_blob(event.payload_sha256)
    except StoreError as error:
        yield f"the payload of {event.name} ({event.call_id}) cannot be read: {error}"
        return
    if len(payload) != event.payload_bytes:
        yield (
            f"the payload of {event.name} ({event.call_id}) has {len(payload)} bytes, not the "
            f"{event.payload_bytes} that the tool returned"
        )
    elif hashlib.sha256(payload).hexdigest() != event.payload_sha256:
        yield f"the payload of {event.name} ({event.call_id}) does not have its recorded sha256"


def _contradictions_of_message(
    event: MessageAdded, called: Mapping[str, ToolCalled], returned: Mapping[str, ToolReturned]
) -> Iterator[str]:
    call_id = event.tool_call_id or ""
    result = returned.get(call_id)
    if result is None:
        made = "did not come back" if call_id in called else "was not made"
        yield f"the model was shown the result of {call_id}, a call that {made}"
    elif result.content != event.content:
        yield (
            f"the model was shown another result of {result.name} ({call_id}) than the tool "
            f"returned: {_difference(result.content, event.content)}"
        )


def _difference(returned: str, shown: str) -> str:
    first, *more = unequal_texts("content", returned, shown)
    recorded, replayed = _spelled(first)
    others = f", and {len(more)} more" if more else ""
    return f"{first.field} is {replayed}, returned {recorded}{others}"


def _answered(recording: Recording) -> Iterator[tuple[int, ToolCalled, ToolReturned]]:
    if recording.started().redacted:
        raise NothingToReplayError(
            f"run {recording.run_id} was redacted: what its tools were asked was not kept"
        )
    called: dict[str, ToolCalled] = {}
    for turn, event in _tool_events(recording):
        if isinstance(event, ToolCalled):
            called[event.call_id] = event
        elif isinstance(event, ToolReturned) and event.call_id in called:
            call = called.pop(event.call_id)
            # What could not be read, or was one too many, was not run then either.
            if call.name and not (event.error or "").startswith(NOT_RUN):
                yield turn, call, event


def _drifts(
    turn: int, called: ToolCalled, returned: ToolReturned, again: ToolResult
) -> Iterator[ToolDrift]:
    if again.error != returned.error:
        unequal = unequal_fields("error", returned.error, again.error)
    else:
        unequal = (
            *unequal_texts("content", returned.content, again.content),
            *unequal_fields("payload_sha256", returned.payload_sha256, _sha256(again.payload)),
            *unequal_fields("tensors", _by_name(returned.tensors), _tensors(again.tensors)),
        )
    for each in unequal:
        recorded, replayed = _spelled(each)
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
    """As a recording would give them back, by their names."""
    return _by_name(json.loads(json.dumps(tensors)))


def _by_name(tensors: Any) -> Any:
    """What was read of each tensor under its name; as a list where names do not tell them apart."""
    if not isinstance(tensors, list | tuple):
        return tensors
    names = [each.get("name") if isinstance(each, Mapping) else None for each in tensors]
    if len(set(map(repr, names))) < len(names) or not all(isinstance(n, str) for n in names):
        return list(tensors)
    return {name: dict(each) for name, each in zip(names, tensors, strict=True)}


def _spelled(each: UnequalField) -> tuple[str, str]:
    """Both sides as JSON; of long ones the part in which they begin to differ."""
    recorded, replayed = (
        MISSING if each.lacking == side else json.dumps(value, ensure_ascii=False)
        for side, value in (("a", each.a), ("b", each.b))
    )
    if max(len(recorded), len(replayed)) <= _TEXT_CHARS_MAX:
        return recorded, replayed
    pairs = enumerate(zip(recorded, replayed, strict=False))
    shorter = min(len(recorded), len(replayed))
    at = next((place for place, (one, other) in pairs if one != other), shorter)
    start = max(0, at - _TEXT_CHARS_BEFORE)
    return _excerpt(recorded, start), _excerpt(replayed, start)


def _excerpt(text: str, start: int) -> str:
    end = start + _TEXT_CHARS_MAX
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
