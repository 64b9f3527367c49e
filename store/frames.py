"""Recordings as pandas frames: typed columns, no JSON.

Every function takes a store and, for one run instead of all, a `run_id`. Times are UTC, ids
`int32`, log-probabilities `float32`, kinds and decisions categories. Where a value is missing,
as the temperature of a greedy turn is, it is NA.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Protocol

import pandas as pd

from recorder.projections import RunSummary


class FrameSource(Protocol):
    """What a store offers to these functions."""

    def summaries(self) -> list[RunSummary]: ...

    def events_frame(
        self, run_id: str | None = None, kinds: Iterable[str] | None = None
    ) -> pd.DataFrame: ...

    def tokens_frame(self, run_id: str | None = None) -> pd.DataFrame: ...


_TOKEN_TYPES = {
    "turn": "int32",
    "step": "int32",
    "position": "int32",
    "token_id": "int32",
    "logprob": "float32",
    "logprob_processed": "float32",
    "entropy": "float32",
    "top_gap": "float32",
    "duration_ms": "float64",
}
_RUN_TYPES = {
    "run_id": "str",
    "name": "str",
    "status": "category",
    "model": "category",
    "seed": "Int64",
    "turns": "int32",
    "prompt_tokens": "int64",
    "reused_tokens": "int64",
    "generated_tokens": "int64",
}
_CACHE_TYPES = {
    "run_id": "str",
    "turn": "int32",
    "decision": "category",
    "reason": "category",
    "prompt_tokens": "int32",
    "reused_tokens": "int32",
    "computed_tokens": "int32",
    "cached_tokens": "int32",
    "cropped_tokens": "int32",
    "divergence_index": "Int32",
    "divergence_cached_id": "Int32",
    "divergence_prompt_id": "Int32",
    "key_field": "str",
    "source": "category",
    "disk_reason": "str",
    "prefill_ms": "float64",
    "kv_bytes": "Int64",
    "peak_bytes": "Int64",
}
_TURN_TYPES = {
    "run_id": "str",
    "turn": "int32",
    "prompt_tokens": "int32",
    "reused_tokens": "Int32",
    "computed_tokens": "Int32",
    "generated_tokens": "Int32",
    "decision": "category",
    "reason": "category",
    "do_sample": "bool",
    "temperature": "Float64",
    "top_p": "Float64",
    "top_k": "Int32",
    "seed": "Int64",
    "stop_reason": "category",
    "duration_ms": "Float64",
    "prefill_ms": "Float64",
    "text": "str",
}
_TOOL_TYPES = {
    "run_id": "str",
    "call_id": "str",
    "name": "category",
    "call": "str",
    "content_tokens": "int32",
    "payload_tokens": "int32",
    "payload_bytes": "int64",
    "payload_sha256": "str",
    "tensors": "int32",
    "error": "str",
    "duration_ms": "float64",
}


def runs_df(store: FrameSource) -> pd.DataFrame:
    """A row a run, the oldest first."""
    rows = [asdict(summary) for summary in store.summaries()]
    for row in rows:
        row["started_at"] = row.pop("started_at_ns")
        row["updated_at"] = row.pop("updated_at_ns")
    return _typed(rows, _RUN_TYPES, times=("started_at", "updated_at"))


def events_df(store: FrameSource, run_id: str | None = None) -> pd.DataFrame:
    """A row an event, sampled tokens too: when it was, its kind, and its turn if it has one."""
    events = store.events_frame(run_id)
    turn = [json.loads(body).get("turn") for body in events["body"]]
    events = events.drop(columns="body").assign(turn=pd.array(turn, dtype="Int32"))
    tokens = store.tokens_frame(run_id)[["run_id", "seq", "at_ns", "version", "turn"]]
    tokens = tokens.assign(kind="TokenSampled", turn=tokens["turn"].astype("Int32"))
    frame = pd.concat([events, tokens[events.columns]], ignore_index=True)
    frame = frame.sort_values(["run_id", "seq"], ignore_index=True)
    frame.insert(2, "at", pd.to_datetime(frame.pop("at_ns"), utc=True))
    return frame.astype({"run_id": "str", "seq": "int32", "kind": "category", "version": "int16"})


def tokens_df(store: FrameSource, run_id: str | None = None) -> pd.DataFrame:
    """A row a sampled token, in order."""
    frame = store.tokens_frame(run_id)
    frame = frame[["run_id", *_TOKEN_TYPES, "seq", "at_ns"]].astype(_TOKEN_TYPES)
    frame["at"] = pd.to_datetime(frame.pop("at_ns"), utc=True)
    return frame.astype({"run_id": "str", "seq": "int32"})


def turns_df(store: FrameSource, run_id: str | None = None) -> pd.DataFrame:
    """A row a turn. One that was cut off has no stop reason and no text."""
    kinds = ("TurnStarted", "CacheDecided", "PrefillCompleted", "TurnFinished")
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for event_run_id, kind, at_ns, body in _bodies(store, run_id, kinds):
        if kind == "TurnStarted":
            sampling = body["sampling"]
            rows[event_run_id, body["turn"]] = {
                "run_id": event_run_id,
                "turn": body["turn"],
                "prompt_tokens": body["prompt_tokens"],
                "seed": body["seed"],
                "do_sample": bool(sampling.get("do_sample")),
                "started_at": at_ns,
            } | _sampler_settings(sampling)
            continue
        row = rows[event_run_id, body["turn"]]
        if kind == "PrefillCompleted":
            row["prefill_ms"] = body["duration_ms"]
        else:
            row |= {name: value for name, value in body.items() if name in _TURN_TYPES}
    return _typed(list(rows.values()), _TURN_TYPES, times=("started_at",))


def _sampler_settings(sampling: dict[str, Any]) -> dict[str, Any]:
    """A greedy turn has none: its warpers are not applied, whatever the config says."""
    if not sampling.get("do_sample"):
        return {}
    return {name: sampling.get(name) for name in ("temperature", "top_p", "top_k")}


def cache_df(store: FrameSource, run_id: str | None = None) -> pd.DataFrame:
    """A row a cache decision, with what its prefill cost."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for event_run_id, kind, at_ns, body in _bodies(
        store, run_id, ("CacheDecided", "PrefillCompleted")
    ):
        place = (event_run_id, body["turn"])
        if kind == "CacheDecided":
            rows[place] = {"run_id": event_run_id, "decided_at": at_ns} | body
        else:
            rows[place] |= {
                "prefill_ms": body["duration_ms"],
                "kv_bytes": body["kv_bytes"],
                "peak_bytes": body["peak_bytes"],
            }
    return _typed(list(rows.values()), _CACHE_TYPES, times=("decided_at",))


def tools_df(store: FrameSource, run_id: str | None = None) -> pd.DataFrame:
    """A row a tool result; `call` reads as the call would in Python, `tensors` counts them."""
    calls: dict[tuple[str, str], str] = {}
    rows = []
    for event_run_id, kind, at_ns, body in _bodies(store, run_id, ("ToolCalled", "ToolReturned")):
        place = (event_run_id, body["call_id"])
        if kind == "ToolCalled":
            arguments = ", ".join(f"{name}={value!r}" for name, value in body["arguments"].items())
            calls[place] = f"{body['name']}({arguments})"
        else:
            rows.append(
                body
                | {
                    "run_id": event_run_id,
                    "call": calls.get(place),
                    "tensors": len(body["tensors"]),
                    "returned_at": at_ns,
                }
            )
    return _typed(rows, _TOOL_TYPES, times=("returned_at",))


def _bodies(
    store: FrameSource, run_id: str | None, kinds: Iterable[str]
) -> Iterable[tuple[str, str, int, dict[str, Any]]]:
    frame = store.events_frame(run_id, kinds)
    for row in frame[["run_id", "kind", "at_ns", "body"]].itertuples(index=False):
        yield str(row.run_id), str(row.kind), int(row.at_ns), json.loads(row.body)  # type: ignore[arg-type]


def _typed(
    rows: list[dict[str, Any]], types: dict[str, str], *, times: tuple[str, ...]
) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*types, *times])
    for name in times:
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame.astype(types)
