"""Rows of frames, folded from the bodies of events."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tokentape.recorder import NewerRecordingError, RecordingError
from tokentape.recorder.events import EVENT_CLASSES
from tokentape.recorder.upcasters import UPCASTERS, upcast
from tokentape.store.frames.columns import CACHE_DF, TURNS_DF

Row = dict[str, Any]
BODY_COLUMNS = ("run_id", "seq", "at", "turn", "kind", "version", "body")


@dataclass(frozen=True, slots=True)
class _Event:
    run_id: str
    at_us: int
    turn: int | None
    kind: str
    body: Row


def _events(table: pa.Table) -> Iterator[_Event]:
    """Raises RecordingError for a body that is damaged, NewerRecordingError for a newer one."""
    at_us = table["at"].cast(pa.int64()).to_pylist()
    names = ("run_id", "seq", "turn", "kind", "version", "body")
    columns = (table[name].to_pylist() for name in names)
    for at, run_id, seq, turn, kind, version, body in zip(at_us, *columns, strict=True):
        try:
            yield _Event(run_id, at, turn, kind, _today(kind, version, body))
        except (KeyError, TypeError, ValueError) as error:
            raise RecordingError(f"run {run_id}, event {seq} is damaged: {error!r}") from None


def _today(kind: str, version: int, body: str) -> Row:
    """The fields of an event as today's version has them; they are not validated."""
    newest = EVENT_CLASSES[kind].version
    if version > newest:
        raise NewerRecordingError(
            f"this tokentape does not know {kind} version {version}: upgrade tokentape to read it"
        )
    return upcast(kind, version, json.loads(body), UPCASTERS)


TURN_KINDS = (
    "TurnStarted",
    "CacheDecided",
    "PrefillCompleted",
    "TurnFinished",
    "ToolReturned",
    "HistoryPruned",
)


def turn_rows(table: pa.Table) -> list[Row]:
    """A row a part of a turn, also for one that was cut off."""
    rows: list[Row] = []
    given: dict[tuple[str, int | None], Row] = {}
    for event in _events(table):
        place = (event.run_id, event.turn)
        totals = given.setdefault(place, dict.fromkeys(_TOTALS, 0))
        if event.kind == "ToolReturned":
            totals["tool_results"] += 1
            totals["tool_tokens"] += event.body["content_tokens"]
        elif event.kind == "HistoryPruned":
            totals["pruned_tokens"] += event.body["tokens_before"] - event.body["tokens_after"]
        elif event.kind == "TurnStarted":
            # What came for another turn since is not of this one, nor of a later part.
            rows.append(_started(event) | totals)
            given = {}
        elif rows and (rows[-1]["run_id"], rows[-1]["turn"]) == place:
            # A turn that goes on in another process decides and computes once more.
            rows[-1] = _later(event) | rows[-1]
    return rows


_TOTALS = ("tool_results", "tool_tokens", "pruned_tokens")


def _started(event: _Event) -> Row:
    body = event.body
    sampling = body["sampling"]
    # A greedy turn has none: its warpers are not applied, whatever the config says.
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


def _later(event: _Event) -> Row:
    if event.kind == "PrefillCompleted":
        return {"prefill_us": event.body["duration_us"]}
    return {name: value for name, value in event.body.items() if name in TURNS_DF.names}


CACHE_KINDS = ("CacheDecided", "PrefillCompleted")


def cache_rows(table: pa.Table) -> list[Row]:
    """A row a cache decision, with what its prefill cost."""
    rows: list[Row] = []
    for event in _events(table):
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


def tool_rows(table: pa.Table) -> list[Row]:
    """A row a tool result, with the call as Python would write it."""
    calls: dict[tuple[str, str], str] = {}
    rows: list[Row] = []
    for event in _events(table):
        body = event.body
        place = (event.run_id, body["call_id"])
        if event.kind == "ToolCalled":
            calls[place] = f"{body['name']}({_arguments(body['arguments'].items())})"
        else:
            own = {
                "run_id": event.run_id,
                "turn": event.turn,
                "call": calls.get(place),
                "tensors": len(body["tensors"]),
                "returned_at": event.at_us,
            }
            rows.append(body | own)
    return rows


def _arguments(arguments: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments)
