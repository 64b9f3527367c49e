"""The tokens that the experimenter chose, as `TurnStarted` says."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokentape.store.frames.reading import damage_of
from tokentape.store.frames.rows import BODY_COLUMNS, EventRow, Row, folding
from tokentape.store.source import Selection, Source


def with_forced(store: Source, selection: Selection, tokens: pa.Table) -> pa.Table:
    """Return a table of `run_id`, `turn` and `step` with a column `forced`.

    Raise RecordingError for a damaged event.
    """
    started = replace(selection, kinds=("TurnStarted",), columns=BODY_COLUMNS)
    rows = _forced_rows(_with_forced_ids(store.events_table(started))) if len(tokens) else []
    if not rows:
        return tokens.append_column("forced", pa.repeat(False, len(tokens)))
    with damage_of(store):
        forced = pa.Table.from_pylist(rows, _FORCED)
        run_ids = pc.unique(forced["run_id"])
        runs = tokens["run_id"].unify_dictionaries().combine_chunks()
        numbers = pc.index_in(runs.dictionary, value_set=run_ids).take(runs.indices)
        turns = _keys(pc.fill_null(numbers, -1), tokens["turn"])
        forced_turns = _keys(pc.index_in(forced["run_id"], value_set=run_ids), forced["turn"])
        known, places = np.unique(forced_turns, return_inverse=True)
        found = np.minimum(np.searchsorted(known, turns), len(known) - 1)
        keys = _keys(found, tokens["step"])
        chosen = np.isin(keys, _keys(places, forced["step"])) & (known[found] == turns)
        return tokens.append_column("forced", pa.array(chosen))


_FORCED = pa.schema(
    [("run_id", pa.string()), ("turn", pa.int32()), ("step", pa.int32())],
)


def _with_forced_ids(started: pa.Table) -> pa.Table:
    """Return the events that may have forced ids: quotes within a text of a body are escaped."""
    bodies = started["body"]
    has_ids = pc.match_substring(bodies, '"forced_ids":[')
    return started.filter(
        pc.and_not(has_ids, pc.match_substring(bodies, '"forced_ids":[]')),
    )


@folding
def _forced_rows(events: Iterator[EventRow]) -> list[Row]:
    """Return a row for each token that the experimenter chose."""
    return [
        {"run_id": event.run_id, "turn": event.turn, "step": event.body["first_step"] + index}
        for event in events
        for index in range(len(event.body["forced_ids"]))
    ]


def _keys(high: pa.Array, low: pa.Array) -> np.ndarray:
    """Return a number for each pair of numbers; `low` takes 32 bits."""
    return np.asarray(high).astype(np.int64) << 32 | np.asarray(low).astype(np.int64)
