"""Counts of the tool calls of runs that ended with an error."""

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from tokentape.recorder import Record, RecordingError
from tokentape.recorder.events import ToolReturned
from tokentape.recorder.record import RecordFilter
from tokentape.store.errors import StoreError
from tokentape.store.event_bodies import decoded_bodies
from tokentape.store.source import Source

_RESULTS = RecordFilter(kinds=frozenset((ToolReturned.__name__,)))

_FEW_RUNS = 64
"""Runs that are read one by one: a table of events imports pandas, which takes longer."""


def count_tool_errors(source: Source, run_ids: Iterable[str]) -> dict[str, int]:
    """Return how many tool calls ended with an error, by run id.

    `run_ids` are full ids. Runs without an error are left out, and so are the turns that a fork
    shares. Only tool results are read; damaged ones are not counted.
    """
    ids = list(run_ids)
    if len(ids) <= _FEW_RUNS:
        return _count_in_each(source, ids)
    try:
        results = decoded_bodies(source, ids, (ToolReturned.__name__,))
        failed = [run_id for run_id, _, fields in results if fields.get("error") is not None]
    except (RecordingError, StoreError):
        return _count_in_each(source, ids)
    return dict(Counter(failed))


def _count_in_each(source: Source, run_ids: Iterable[str]) -> dict[str, int]:
    """Return the counts of the runs that can be read, where one cannot."""
    counts: dict[str, int] = {}
    for run_id in run_ids:
        # `check` reports damage; a list of runs must show the other runs.
        with suppress(RecordingError, StoreError):
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
