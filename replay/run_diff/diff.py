"""Compare two runs: turns by their numbers, tokens by their steps. Needs no model, and no torch."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

from tokentape.recorder import Recording
from tokentape.recorder.events import CacheEvicted, RunFailed, RunFinished, ids_sha256
from tokentape.replay.errors import NothingToReplayError
from tokentape.replay.run_diff.diff_types import (
    ComparedRun,
    Diff,
    Duration,
    Numbers,
    ReplyDifference,
    Sides,
    ToolDifference,
    TurnDiff,
    UnequalField,
)
from tokentape.replay.run_diff.json_fields import unequal_fields, unequal_texts
from tokentape.replay.run_diff.run_outline import RunOutline, ToolUse, TurnOutline, outline
from tokentape.replay.run_diff.turn_diff import (
    agreeing_tokens,
    compare_numbers,
    compare_prompts,
    compare_replies,
)

_CIRCUMSTANCES = ("name", "model", "threads", "environment")
_CACHE_IDS = ("divergence_cached_id", "divergence_prompt_id")


def diff(recording_a: Recording, recording_b: Recording) -> Diff:
    """Compare what was recorded of two runs, number by number.

    Raises RecordingError for a run that contradicts itself, and NothingToReplayError where neither
    has a turn.
    """
    a, b = outline(recording_a), outline(recording_b)
    if not a.begun and not b.begun:
        raise NothingToReplayError(
            f"there is nothing to compare: neither run {a.run_id} nor run {b.run_id} has a turn"
        )
    turns: list[TurnDiff] = []
    parted = False
    for number in sorted(a.turns.keys() | b.turns.keys()):
        compared = _compare_turns(
            Sides(a.turns.get(number), b.turns.get(number)),
            number,
            withheld=a.withheld or b.withheld,
            parted=parted,
        )
        parted = parted or compared.parts
        turns.append(compared)
    circumstances: list[UnequalField] = []
    beginning: list[UnequalField] = []
    for each in unequal_fields("", asdict(a.started), asdict(b.started)):
        noted = each.field.split(".")[0] in _CIRCUMSTANCES
        (circumstances if noted else beginning).append(each)
    return Diff(
        a=_compared_run(a),
        b=_compared_run(b),
        beginning=tuple(beginning),
        circumstances=tuple(circumstances),
        turns=tuple(turns),
        ending=unequal_fields("", _ending(a), _ending(b)),
    )


def _compared_run(run: RunOutline) -> ComparedRun:
    return ComparedRun(
        run_id=run.run_id,
        name=run.started.name,
        model=run.started.model,
        where=run.where,
        turns=len(run.begun),
        tokens=sum(len(turn.tokens) for turn in run.begun),
        withheld=run.withheld,
    )


def _ending(run: RunOutline) -> dict[str, str]:
    """How the run ended; a traceback is where the code stood, which is not what happened."""
    if isinstance(run.ended, RunFailed):
        return {"status": "failed", "error": run.ended.error, "message": run.ended.message}
    return {"status": "finished" if isinstance(run.ended, RunFinished) else "running"}


def _compare_turns(
    sides: Sides[TurnOutline | None], number: int, *, withheld: bool, parted: bool
) -> TurnDiff:
    begun = any(each is not None and each.turn is not None for each in (sides.a, sides.b))
    there = [
        each is not None and (each.turn is not None or not begun) for each in (sides.a, sides.b)
    ]
    a, b = (each or TurnOutline(number=number) for each in (sides.a, sides.b))
    if not all(there):
        return TurnDiff(
            turn=number,
            begun=begun,
            only_in="a" if there[0] else "b",
            timing=_compare_durations(a, b),
        )
    prompt = compare_prompts(a, b, withheld=withheld, parted=parted)
    reply: ReplyDifference | None = None
    numbers: Numbers | None = None
    if a.turn is not None and b.turn is not None:
        agreeing = agreeing_tokens(a.turn, b.turn, withheld=withheld)
        reply = compare_replies(a.turn, b.turn, agreeing, withheld=withheld)
        same_prompt = prompt is None or not prompt.ids_differ
        numbers = compare_numbers(a.turn, b.turn, agreeing if same_prompt else 0)
    return TurnDiff(
        turn=number,
        begun=begun,
        prompt=prompt,
        reply=reply,
        numbers=numbers,
        sampling=unequal_fields("", _sampling(a), _sampling(b)),
        cache=unequal_fields("", *(_cache(each, withheld=withheld) for each in (a, b))),
        tools=tuple(_compare_tools(a.tools, b.tools)),
        timing=_compare_durations(a, b),
    )


def _sampling(outlined: TurnOutline) -> dict[str, Any]:
    """How the tokens of the turn were chosen."""
    if outlined.turn is None:
        return {}
    started = outlined.turn.started
    asked = {"seed": started.seed, "unreplayable": started.unreplayable}
    return {**started.sampling, **asked}


def _cache(outlined: TurnOutline, *, withheld: bool) -> dict[str, Any]:
    """What was reused and what computed, in which forwards; not how many bytes that took."""
    found: dict[str, Any] = {
        "system_prompts": [
            {"source": each.source, "disk_reason": each.disk_reason, "chunks": each.chunks}
            # It follows from the ids, where nobody has changed the one and not the other.
            | ({} if ids_sha256(each.ids) == each.sha256 else {"altered_sha256": each.sha256})
            for each in outlined.system
        ],
        "freed": [
            {"event": type(each).__name__, "reason": each.reason}
            | ({"tokens": each.tokens} if isinstance(each, CacheEvicted) else {})
            for each in outlined.freed
        ],
    }
    turn = outlined.turn
    if turn is not None and turn.cache is not None:
        found |= asdict(turn.cache)
        for name in _CACHE_IDS if withheld else ():
            del found[name]
    if turn is not None and turn.prefill is not None:
        found["chunks"] = turn.prefill.chunks
    return found


def _compare_tools(a: list[ToolUse], b: list[ToolUse]) -> Iterator[ToolDifference]:
    for call, (one, other) in enumerate(zip_longest(a, b)):
        fields: tuple[UnequalField, ...] = ()
        if one is not None and other is not None:
            fields = (
                *unequal_texts("content", _content(one), _content(other)),
                *unequal_fields("", _use(one), _use(other)),
            )
        if one is None or other is None or fields:
            yield ToolDifference(
                call=call,
                names=Sides(_name(one), _name(other)),
                only_in="b" if one is None else "a" if other is None else "",
                fields=fields,
            )


def _use(use: ToolUse) -> dict[str, Any]:
    """A call and its result, but for the content and how long it took."""
    found: dict[str, Any] = {} if use.called is None else asdict(use.called)
    if use.returned is not None:
        returned = asdict(use.returned)
        for name in ("content", "duration_us"):
            del returned[name]
        answered = returned.pop("call_id"), returned.pop("name")
        if answered != (found.get("call_id"), found.get("name")):
            found["answers"] = answered
        found |= returned
    return found


def _content(use: ToolUse) -> str:
    return "" if use.returned is None else use.returned.content


def _name(use: ToolUse | None) -> str | None:
    if use is None:
        return None
    event = use.called or use.returned
    return event.name if event is not None else None


def _compare_durations(a: TurnOutline, b: TurnOutline) -> tuple[Duration, ...]:
    measured = (_durations(a), _durations(b))
    return tuple(
        Duration(what=what, a=one, b=other, ratio=other / one if one and other else None)
        for (what, one), other in zip(measured[0].items(), measured[1].values(), strict=True)
    )


def _durations(outlined: TurnOutline) -> dict[str, float | None]:
    """Microseconds of a turn; None where there was nothing to measure."""
    turn = outlined.turn
    returned = [use.returned.duration_us for use in outlined.tools if use.returned is not None]
    tokens = [token.duration_us for token in turn.tokens] if turn is not None else []
    finished = None if turn is None else turn.finished
    prefill = None if turn is None else turn.prefill
    return {
        "turn": None if finished is None else finished.duration_us,
        "prefill": None if prefill is None else prefill.duration_us,
        "token": sum(tokens) / len(tokens) if tokens else None,
        "tools": sum(returned) if returned else None,
    }
