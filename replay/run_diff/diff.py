"""Compare two runs from their events: turns by number, tokens by step. Needs no torch."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

from tokentape.recorder import Recording
from tokentape.recorder.escapes import visible
from tokentape.recorder.events import CacheEvicted, RunFailed, ids_sha256
from tokentape.recorder.projections import Turn
from tokentape.recorder.projections.inside_model import ADAPTERS, HOOKS
from tokentape.replay.results.errors import NothingToReplayError
from tokentape.replay.results.json_fields import UnequalField, unequal_fields, unequal_texts
from tokentape.replay.run_diff.diff_types import (
    ComparedRun,
    Diff,
    DurationPair,
    NumberDifferences,
    Pair,
    ReplyDifference,
    ToolDifference,
    TurnDiff,
)
from tokentape.replay.run_diff.inside_diff import compare_inside_model
from tokentape.replay.run_diff.run_outline import (
    RunOutline,
    ToolExchange,
    TurnOutline,
    TurnReader,
    outline_run,
)
from tokentape.replay.run_diff.turn_diff import (
    agreeing_tokens,
    compare_numbers,
    compare_prompts,
    compare_replies,
)

_NOTED = ("name", "model", "threads", "environment", "process", "warnings", "tool_sources")
_SINCE_0_2 = ("config", "model_class", "model_code", "module_state", "tool_sources")
_CACHE_IDS = ("divergence_cached_id", "divergence_prompt_id")


def diff(recording_a: Recording, recording_b: Recording) -> Diff:
    """Compare two recorded runs, number by number, and read both once.

    Raise RecordingError if the events of a run contradict each other, and NothingToReplayError if
    neither has a turn.

    Example:
        >>> import tokentape as tt
        >>> recording = store.recording(run_id)
        >>> tt.diff(recording, recording).same
        True
    """
    return compare_outlines(outline_run(recording_a), outline_run(recording_b))


def compare_outlines(a: RunOutline, b: RunOutline) -> Diff:
    """Compare two runs that are laid out by turns; see `diff`."""
    if not a.begun_turns and not b.begun_turns:
        raise NothingToReplayError(
            f"there is nothing to compare: neither run {_named(a)} nor run {_named(b)} has a turn"
        )
    turns: list[TurnDiff] = []
    diverged = False
    redacted = a.redacted or b.redacted
    spelled = Pair(*({} if redacted else each.spelled() for each in (a, b)))
    texts = Pair(spelled.b | spelled.a, spelled.a | spelled.b)
    # Turn by turn: the prompts of all turns would not fit into memory.
    of_a, of_b = TurnReader(a), TurnReader(b)
    for number in sorted(a.turns.keys() | b.turns.keys()):
        compared = _compare_turns(
            Pair(of_a.outline(number), of_b.outline(number)),
            number,
            redacted=redacted,
            diverged=diverged,
            texts=texts,
        )
        diverged = diverged or compared.diverges
        turns.append(compared)
    of_a.check_rest()
    of_b.check_rest()
    started, noted = _compare_starts(a, b)
    return Diff(
        a=_compared_run(a),
        b=_compared_run(b),
        started=tuple(started),
        noted=tuple(noted),
        turns=tuple(turns),
        ended=unequal_fields("", _ending(a), _ending(b)),
    )


def _compare_starts(a: RunOutline, b: RunOutline) -> tuple[list[UnequalField], list[UnequalField]]:
    """Return the differences of `RunStarted` that count, and those that are noted."""
    of_a, of_b = asdict(a.started), asdict(b.started)
    for side in (of_a, of_b):
        # No two runs share the other fields of a process.
        side["process"] = {name: side["process"].get(name) for name in ("host",)}
    # Version 0.1.0 did not record them: one line says so, instead of one for each field.
    unrecorded = [name for name in _SINCE_0_2 if bool(of_a[name]) != bool(of_b[name])]
    started: list[UnequalField] = []
    noted: list[UnequalField] = []
    for name in unrecorded:
        texts = ["recorded" if side.pop(name) else "not recorded" for side in (of_a, of_b)]
        noted.append(UnequalField(field=name, a=texts[0], b=texts[1]))
    for each in unequal_fields("", of_a, of_b):
        (noted if each.field.split(".")[0] in _NOTED else started).append(each)
    return started, noted


def _compared_run(run: RunOutline) -> ComparedRun:
    return ComparedRun(
        run_id=run.run_id,
        name=run.started.name,
        model=run.started.model,
        where=run.where,
        turns=run.begun_turns,
        tokens=run.tokens,
        redacted=run.redacted,
        status=run.status_text,
        parent_run_id=None if run.forked is None else run.forked.parent_run_id,
        forked_at_turn=None if run.forked is None else run.forked.at_turn,
        forked_at_token=None if run.forked is None else run.forked.at_token,
        other_model=() if run.forked is None else run.forked.other_model,
    )


def _named(run: RunOutline) -> str:
    """Return the id of a run, and its status if it did not finish."""
    status = run.status_text
    return run.run_id if status == "finished" else f"{run.run_id} ({visible(status)})"


def _ending(run: RunOutline) -> dict[str, str]:
    """Return how the run ended, without the traceback, which depends on the code."""
    if run.ended is None:
        return {"status": "running"}
    found = {"status": run.ended.status}
    if isinstance(run.ended, RunFailed):
        return found | {"error": run.ended.error, "message": run.ended.message}
    return found | ({"signal": run.ended.signal} if run.ended.signal else {})


def _compare_turns(
    sides: Pair[TurnOutline | None],
    number: int,
    *,
    redacted: bool,
    diverged: bool,
    texts: Pair[dict[int, str]],
) -> TurnDiff:
    begun = any(each is not None and each.turn is not None for each in (sides.a, sides.b))
    has_turn = [
        each is not None and (each.turn is not None or not begun) for each in (sides.a, sides.b)
    ]
    a, b = (each or TurnOutline(number=number) for each in (sides.a, sides.b))
    if not all(has_turn):
        return TurnDiff(
            turn=number,
            begun=begun,
            only_in="a" if has_turn[0] else "b",
            timing=_compare_durations(a, b),
        )
    prompt = compare_prompts(a, b, redacted=redacted, diverged=diverged)
    same_prompt = prompt is None or not prompt.ids_differ
    reply: ReplyDifference | None = None
    numbers: NumberDifferences | None = None
    # Only one run has more rounds if the model called a tool there alone: the replies differ.
    rounds = min(len(_later_rounds(each)) for each in (a, b))
    if a.turn is not None and b.turn is not None:
        agreeing = agreeing_tokens(a.turn, b.turn, redacted=redacted)
        reply = compare_replies(a.turn, b.turn, agreeing, texts)
        numbers = compare_numbers(a.turn, b.turn, agreeing if same_prompt else 0)
    diverges = not same_prompt or (reply is not None and reply.step is not None)
    return TurnDiff(
        turn=number,
        begun=begun,
        inside_model=compare_inside_model(a, b, with_positions=same_prompt),
        prompt=prompt,
        reply=reply,
        numbers=numbers,
        sampling=unequal_fields("", *(_sampling(each, rounds=rounds) for each in (a, b))),
        cache=unequal_fields(
            "", *(_cache(each, redacted=redacted, rounds=rounds) for each in (a, b))
        ),
        activations=() if diverges else unequal_fields("", a.activations, b.activations),
        tools=tuple(_compare_tools(a.tools, b.tools)),
        timing=_compare_durations(a, b),
    )


def _later_rounds(outlined: TurnOutline) -> tuple[Turn, ...]:
    """Return the rounds after the first one."""
    return () if outlined.turn is None else outlined.turn.rounds[1:]


def _sampling(outlined: TurnOutline, *, rounds: int) -> dict[str, Any]:
    """Return the settings by which the tokens of the turn were chosen, in the first round and in so
    many later ones."""
    if outlined.turn is None:
        return {}
    started = [outlined.turn.started]
    started += (each.started for each in _later_rounds(outlined)[:rounds])
    first, *later = (
        {**each.sampling, "seed": each.seed, "own_settings": each.own_settings} for each in started
    )
    forced = [
        {"step": token.step, "token_id": token.token_id}
        for token in outlined.turn.tokens
        if token.step in outlined.turn.forced_steps
    ]
    return first | {"rounds": later} | ({"forced": forced} if forced else {})


def _cache(outlined: TurnOutline, *, redacted: bool, rounds: int) -> dict[str, Any]:
    """Return how many tokens were reused and computed, and in which forwards: in the first round
    and in so many later ones."""
    found: dict[str, Any] = {
        "system_prompts": [
            {"source": each.source, "disk_reason": each.disk_reason, "chunks": each.chunks}
            # The sha256 is compared only where it does not match the ids.
            | ({} if ids_sha256(each.ids) == each.sha256 else {"altered_sha256": each.sha256})
            for each in outlined.system
        ],
        "freed": [
            {"event": type(each).__name__, "reason": each.reason}
            | ({"tokens": each.tokens} if isinstance(each, CacheEvicted) else {})
            for each in outlined.freed
        ],
    }
    if outlined.turn is not None:
        found |= _cache_of_round(outlined.turn, redacted=redacted)
    found["rounds"] = [
        _cache_of_round(each, redacted=redacted) for each in _later_rounds(outlined)[:rounds]
    ]
    return found


def _cache_of_round(turn: Turn, *, redacted: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if turn.cache is not None:
        found |= asdict(turn.cache)
        # Differences of these parts are listed first, as those inside the model.
        found["key"] = {
            name: value for name, value in turn.cache.key.items() if name not in (ADAPTERS, HOOKS)
        }
        for name in _CACHE_IDS if redacted else ():
            del found[name]
    if turn.prefill is not None:
        found["chunks"] = turn.prefill.chunks
    return found


def _compare_tools(a: list[ToolExchange], b: list[ToolExchange]) -> Iterator[ToolDifference]:
    for call, (one, other) in enumerate(zip_longest(a, b)):
        fields: tuple[UnequalField, ...] = ()
        if one is not None and other is not None:
            fields = (
                *unequal_texts("content", _content(one), _content(other)),
                *unequal_fields("", _call_fields(one), _call_fields(other)),
            )
        if one is None or other is None or fields:
            yield ToolDifference(
                call=call,
                names=Pair(_name(one), _name(other)),
                only_in="b" if one is None else "a" if other is None else "",
                fields=fields,
            )


def _call_fields(exchange: ToolExchange) -> dict[str, Any]:
    """Return a call and its result, without content, duration and traceback.

    A traceback depends on the lines of the code, and the error is compared.
    """
    found: dict[str, Any] = {} if exchange.called is None else asdict(exchange.called)
    if exchange.returned is not None:
        returned = asdict(exchange.returned)
        for name in ("content", "duration_us", "traceback"):
            del returned[name]
        answered = returned.pop("call_id"), returned.pop("name")
        if answered != (found.get("call_id"), found.get("name")):
            found["answers"] = answered
        found |= returned
    return found


def _content(exchange: ToolExchange) -> str:
    return "" if exchange.returned is None else exchange.returned.content


def _name(exchange: ToolExchange | None) -> str | None:
    if exchange is None:
        return None
    event = exchange.called or exchange.returned
    return event.name if event is not None else None


def _compare_durations(a: TurnOutline, b: TurnOutline) -> tuple[DurationPair, ...]:
    measured = (_durations(a), _durations(b))
    return tuple(
        DurationPair(what=what, a=one, b=other, ratio=other / one if one and other else None)
        for (what, one), other in zip(measured[0].items(), measured[1].values(), strict=True)
    )


def _durations(outlined: TurnOutline) -> dict[str, float | None]:
    """Return the microseconds of a turn; None where nothing was measured."""
    turn = outlined.turn
    returned = [each.returned.duration_us for each in outlined.tools if each.returned is not None]
    tokens = [token.duration_us for token in turn.tokens] if turn is not None else []
    finished = None if turn is None else turn.finished
    prefill = None if turn is None else turn.prefill
    return {
        "turn": None if finished is None else finished.duration_us,
        "prefill": None if prefill is None else prefill.duration_us,
        "token": sum(tokens) / len(tokens) if tokens else None,
        "tools": sum(returned) if returned else None,
    }
