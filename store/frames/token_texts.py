"""The texts of tokens, as the events of their runs give them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokentape.store.frames.event_rows import SPELLING_KINDS, text_rows
from tokentape.store.frames.reading import damage_of
from tokentape.store.frames.rows import BODY_COLUMNS
from tokentape.store.source import Selection, Source

_TEXTS = pa.schema(
    [("run_id", pa.string()), ("token_id", pa.int32()), ("text", pa.string())],
)


def with_texts(store: Source, selection: Selection, tokens: pa.Table) -> pa.Table:
    """Return a table of `run_id` and `token_id` with a column `text`, null where none is recorded.

    An id is spelled once in a run, in any of its turns: the texts of the runs in `selection` are
    read whole. Raise RecordingError for a damaged event.
    """
    whole = replace(selection, turns=None, kinds=SPELLING_KINDS, columns=BODY_COLUMNS)
    rows = text_rows(store.events_table(whole)) if len(tokens) else []
    if not rows:
        return tokens.append_column("text", pa.nulls(len(tokens), pa.string()))
    with damage_of(store):
        texts = pa.Table.from_pylist(rows, _TEXTS)
        run_ids = pc.unique(texts["run_id"])
        known = _keys(pc.index_in(texts["run_id"], value_set=run_ids), texts)
        runs = tokens["run_id"].unify_dictionaries().combine_chunks()
        wanted = _keys(pc.index_in(runs.dictionary, value_set=run_ids).take(runs.indices), tokens)
        column = texts["text"].combine_chunks().take(pc.index_in(wanted, value_set=known))
        return tokens.append_column("text", column)


def _keys(runs: Any, table: pa.Table) -> pa.Array:
    """Return a number for each row that tells its run and token id; -1 for runs without texts."""
    numbers = pc.fill_null(runs, -1).to_numpy().astype(np.int64)
    return pa.array(np.where(numbers < 0, -1, numbers << 31 | table["token_id"].to_numpy()))
