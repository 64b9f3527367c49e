"""Counts of the tool calls of runs that ended with an error."""

import json
from collections.abc import Iterable
from contextlib import suppress

from tokentape.recorder import Record, RecordingError
from tokentape.recorder.events import ToolReturned
from tokentape.recorder.record import RecordFilter
from tokentape.store.source import Source

_RESULTS = RecordFilter(kinds=frozenset((ToolReturned.__name__,)))


def count_tool_errors(source: Source, run_ids: Iterable[str]) -> dict[str, int]:
    """Return how many tool calls ended with an error, by run id.

    `run_ids` are full ids. Runs without an error are left out, and so are the turns that a fork
    shares. Only tool results are read; those after a damaged one are not counted.
    """
    counts: dict[str, int] = {}
    for run_id in run_ids:
        # `check` reports damage; a list of runs must show the other runs.
        with suppress(RecordingError):
            for record in source.recording(run_id).selected(_RESULTS):
                if _has_error(record):
                    counts[run_id] = counts.get(run_id, 0) + 1
    return counts


def _has_error(record: Record) -> bool:
    body = record.body
    # Quotes within a text of the body are escaped, so this is the field itself.
    if not isinstance(body, str) or '"error":null' in body:
        return False
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.get("error") is not None
