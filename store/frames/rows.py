"""Rows of frames, folded from the bodies of events."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tokentape.recorder import RecordingError
from tokentape.recorder.codec import class_of
from tokentape.recorder.damage import reporting_damage
from tokentape.recorder.limits import load_json
from tokentape.recorder.upcasters import UPCASTERS, upcast
from tokentape.store.frames.columns import CACHE_DF, TURNS_DF

Row = dict[str, Any]
BODY_COLUMNS = ("run_id", "seq", "at", "turn", "kind", "version", "body")


@dataclass(frozen=True, slots=True)
class EventRow:
    """A row of `events` with a parsed body."""

    run_id: str
    seq: int
    at_us: int
    turn: int | None
    kind: str
    body: Row


def folding(fold: Callable[[Iterator[EventRow]], list[Row]]) -> Callable[[pa.Table], list[Row]]:
    """Return a function that folds the events of a table, with parsed bodies, into rows.

    It raises RecordingError with the run and the place of a damaged event, NewerRecordingError for
    one of a newer version.
    """

    @functools.wraps(fold)
    def fold_table(table: pa.Table) -> list[Row]:
        place = ""

        def events() -> Iterator[EventRow]:
            nonlocal place
            at_us = table["at"].cast(pa.int64()).to_pylist()
            names = ("run_id", "seq", "turn", "kind", "version", "body")
            columns = (table[name].to_pylist() for name in names)
            for at, run_id, seq, turn, kind, version, body in zip(at_us, *columns, strict=True):
                place = f"run {run_id}, event {seq}"
                yield EventRow(run_id, seq, at, turn, kind, _upcast(kind, version, body))

        with reporting_damage(lambda why: RecordingError(f"{place} is damaged: {why}")):
            return fold(events())

    return fold_table


def _upcast(kind: str, version: int, body: str) -> Row:
    """Return the fields of an event, upcast to the newest version but not validated."""
    class_of(kind, version)
    fields: Row = upcast(kind, version, load_json(body), UPCASTERS)
    return fields


TURN_KINDS = (
    "TurnStarted",
    "CacheDecided",
    "PrefillCompleted",
    "TurnFinished",
    "ToolReturned",
    "HistoryPruned",
)


@folding
def turn_rows(events: Iterator[EventRow]) -> list[Row]:
    """Return a row for each round of each turn, also of one that was cut off."""
    rows: list[Row] = []
    pending: dict[tuple[str, int | None], Row] = {}
    for event in events:
        key = (event.run_id, event.turn)
        totals = pending.setdefault(key, dict.fromkeys(_TOTALS, 0))
        if event.kind == "ToolReturned":
            totals["tool_results"] += 1
            totals["tool_tokens"] += event.body["content_tokens"]
        elif event.kind == "HistoryPruned":
            totals["pruned_tokens"] += event.body["tokens_before"] - event.body["tokens_after"]
        elif event.kind == "TurnStarted":
            # Totals count from the previous `TurnStarted`.
            rows.append(_started(event) | totals)
            pending = {}
        elif rows and (rows[-1]["run_id"], rows[-1]["turn"]) == key:
            # A resumed turn has a second cache decision and prefill: the first ones count.
            rows[-1] = _outcome(event) | rows[-1]
    return rows


_TOTALS = ("tool_results", "tool_tokens", "pruned_tokens")


def _started(event: EventRow) -> Row:
    body = event.body
    sampling = body["sampling"]
    # A greedy turn applies no warpers, whatever the config says.
    settings = ("temperature", "top_p", "top_k") if sampling.get("do_sample") else ()
    return {
        "run_id": event.run_id,
        "turn": body["turn"],
        "first_step": body.get("first_step", 0),
        "prompt_tokens": body["prompt_tokens"],
        "seed": body["seed"],
        "do_sample": bool(sampling.get("do_sample")),
        "started_at": event.at_us,
        "history_reason": body["history_reason"],
    } | {name: sampling.get(name) for name in settings}


def _outcome(event: EventRow) -> Row:
    if event.kind == "PrefillCompleted":
        return {"prefill_us": event.body["duration_us"]}
    return {name: value for name, value in event.body.items() if name in TURNS_DF.names}


CACHE_KINDS = ("CacheDecided", "PrefillCompleted")


@folding
def cache_rows(events: Iterator[EventRow]) -> list[Row]:
    """Return a row for each cache decision, with the cost of its prefill."""
    rows: list[Row] = []
    for event in events:
        if event.kind == "CacheDecided":
            known = {name: event.body.get(name) for name in CACHE_DF.names}
            rows.append(known | {"run_id": event.run_id, "decided_at": event.at_us})
        elif rows and (rows[-1]["run_id"], rows[-1]["turn"]) == (event.run_id, event.turn):
            rows[-1] |= {
                "prefill_us": event.body["duration_us"],
                "kv_bytes": event.body["kv_bytes"],
                "peak_bytes": event.body["peak_bytes"],
            }
    return rows


TOOL_KINDS = ("ToolCalled", "ToolReturned")


@folding
def tool_rows(events: Iterator[EventRow]) -> list[Row]:
    """Return a row for each tool result, with the call in Python's syntax."""
    calls: dict[tuple[str, str], str] = {}
    rows: list[Row] = []
    for event in events:
        body = event.body
        key = (event.run_id, body["call_id"])
        if event.kind == "ToolCalled":
            calls[key] = f"{body['name']}({_arguments(body['arguments'].items())})"
        else:
            added = {
                "run_id": event.run_id,
                "turn": event.turn,
                "call": calls.get(key),
                "tensors": len(body["tensors"]),
                "returned_at": event.at_us,
            }
            rows.append(body | added)
    return rows


def _arguments(arguments: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments)
