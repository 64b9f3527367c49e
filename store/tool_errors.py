"""Counts of the tool calls of runs that ended with an error."""

import json
from collections.abc import Iterable

from tokentape.recorder.events import ToolReturned
from tokentape.store.source import Selection, Source


def count_tool_errors(source: Source, run_ids: Iterable[str]) -> dict[str, int]:
    """Return how many tool calls ended with an error, by full run id.

    Runs without one are left out, and so are the turns that a fork shares. Only tool results are
    read; a damaged one is not counted.
    """
    wanted = tuple(run_ids)
    counts: dict[str, int] = {}
    if not wanted:
        return counts
    chosen = Selection(
        run_ids=wanted, kinds=(ToolReturned.__name__,), columns=("run_id", "kind", "body")
    )
    table = source.events_table(chosen)
    for run_id, body in zip(table["run_id"].to_pylist(), table["body"].to_pylist(), strict=True):
        if _has_error(body):
            counts[run_id] = counts.get(run_id, 0) + 1
    return counts


def _has_error(body: str) -> bool:
    # Every object within a result is quoted in `content`, so this text is the field's own.
    if '"error":null' in body:
        return False
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.get("error") is not None
