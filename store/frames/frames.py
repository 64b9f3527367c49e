"""Recordings as pandas frames: typed columns, UTC times, no JSON.

Every function takes a store of any kind. `run_id` is an id or the unambiguous beginning of one, or
several of them; `turns` is a turn or several; None selects all. `columns` names the columns to
read, in order; no other column is read. `dtype_backend` is as in pandas' readers: None for NumPy's
types, with pandas' nullable ones where a value may be missing, "numpy_nullable" or "pyarrow". All
raise NoSuchRunError for an unknown run, StoreError for an unknown column, and RecordingError for a
damaged event. `tokentape.store.frames.columns` describes every column.
"""

from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import pandas as pd
import pyarrow as pa

from tokentape.recorder.events import TOKEN_KIND
from tokentape.recorder.listed_keywords import suggests_keywords
from tokentape.store.arrow import EVENTS, NAME
from tokentape.store.frames import event_rows, run_details
from tokentape.store.frames import rows as frame_rows
from tokentape.store.frames.columns import (
    ACTIVATIONS_DF,
    CACHE_DF,
    EVENTS_DF,
    INTERVENTIONS_DF,
    MESSAGES_DF,
    RUNS_DF,
    TOKENS_DF,
    TOOLS_DF,
    TOP_LOGPROBS_DF,
    TURNS_DF,
    VERDICTS_DF,
)
from tokentape.store.frames.forced_tokens import with_forced
from tokentape.store.frames.reading import (
    Columns,
    RunIds,
    Turns,
    chosen_columns,
    damage_of,
    folded_frame,
    frame_of,
    run_ids_of,
    selection_of,
)
from tokentape.store.frames.token_texts import with_texts
from tokentape.store.frames.types import DtypeBackend, to_pandas
from tokentape.store.run_conditions import RunConditions
from tokentape.store.source import Source


@suggests_keywords
def runs_df(
    store: Source,
    run_id: RunIds = None,
    *,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
    **where: Unpack[RunConditions],
) -> pd.DataFrame:
    """Return one row for each run, the oldest first; with conditions, for those that fulfil them.

    The conditions are `name`, `model`, `plan`, `status`, `tag`, `since`, `until` and `said`: see
    `tokentape.store.run_conditions.RunConditions`.

    Example:
        >>> import tokentape as tt
        >>> tt.runs_df(store, columns=["status", "turns"])
             status  turns
        0  finished      3
        >>> len(tt.runs_df(store, status="failed", since="7d"))
        0
    """
    schema = chosen_columns(RUNS_DF, columns)
    wanted = run_ids_of(store, run_id)
    found = [each for each in store.summaries(**where) if wanted is None or each.run_id in wanted]
    details = run_details.of_runs(store, wanted, schema.names)
    with damage_of(store):
        rows = [details.row_of(each) for each in found]
        return to_pandas(pa.Table.from_pylist(rows, schema), dtype_backend)


@suggests_keywords
def events_df(
    store: Source,
    run_id: RunIds = None,
    *,
    turns: Turns = None,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return one row for each event, sampled tokens included, ordered by run and `seq`.

    Example:
        >>> import tokentape as tt
        >>> tt.events_df(store, run_id)["kind"].iloc[0]
        'RunStarted'
    """
    schema = chosen_columns(EVENTS_DF, columns)
    names = ("run_id", "seq", *schema.names)
    selection = selection_of(store, run_id, turns, names)
    events = store.events_table(selection)
    tokens = store.tokens_table(selection)
    kept = pa.schema([field for field in EVENTS if field.name in names])
    with damage_of(store):
        both = pa.concat_tables([events.select(kept.names), _as_events(tokens, kept)])
        return frame_of(both.take(_sort_order(both)), schema, dtype_backend)


@suggests_keywords
def turns_df(
    store: Source,
    run_id: RunIds = None,
    *,
    turns: Turns = None,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return one row for each turn, or for each round of a turn with tool calls of the model.

    A turn that was cut off has no stop reason and no text.

    Example:
        >>> import tokentape as tt
        >>> tt.turns_df(store, run_id, columns="turn")["turn"].tolist()
        [1, 2, 3]
    """
    schema = chosen_columns(TURNS_DF, columns)
    selection = selection_of(
        store, run_id, turns, frame_rows.BODY_COLUMNS, kinds=frame_rows.TURN_KINDS
    )
    return folded_frame(store, selection, frame_rows.turn_rows, schema, dtype_backend)


@suggests_keywords
def tokens_df(
    store: Source,
    run_id: RunIds = None,
    *,
    turns: Turns = None,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return one row for each sampled token, ordered by run and `seq`.

    Example:
        >>> import tokentape as tt
        >>> tokens = tt.tokens_df(store, run_id, turns=1, columns=["step", "token_id", "logprob"])
        >>> bool((tokens["logprob"] <= 0).all())
        True
    """
    schema = chosen_columns(TOKENS_DF, columns)
    needed = {"text": ("token_id",), "forced": ("turn", "step")}
    names = [other for name in schema.names for other in needed.get(name, (name,))]
    selection = selection_of(store, run_id, turns, [*dict.fromkeys(names)])
    table = store.tokens_table(selection)
    if "text" in schema.names:
        table = with_texts(store, selection, table)
    if "forced" in schema.names:
        table = with_forced(store, selection, table)
    with damage_of(store):
        return frame_of(table, schema, dtype_backend)


@suggests_keywords
def top_logprobs_df(
    store: Source,
    run_id: RunIds = None,
    *,
    turns: Turns = None,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return a row for each token of the top k of each step, the likeliest first.

    Runs that recorded no top k have no rows.

    Example:
        >>> import tokentape as tt
        >>> top = tt.top_logprobs_df(store, run_id, turns=1)
        >>> sorted(top["rank"].unique().tolist())
        [0, 1, 2, 3, 4]
    """
    schema = chosen_columns(TOP_LOGPROBS_DF, columns)
    lists = {"token_id": "top_ids", "logprob": "top_logprobs"}
    names = (*(lists.get(name, name) for name in schema.names), "top_ids")
    selection = selection_of(store, run_id, turns, names)
    table = store.tokens_table(selection)
    flat_names = ["token_id" if name == "text" else name for name in schema.names]
    with damage_of(store):
        flat = _flat(table, [*dict.fromkeys(("run_id", *flat_names))], lists)
    if "text" in schema.names:
        flat = with_texts(store, selection, flat)
    with damage_of(store):
        return frame_of(flat, schema, dtype_backend)


@suggests_keywords
def cache_df(
    store: Source,
    run_id: RunIds = None,
    *,
    turns: Turns = None,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return one row for each cache decision, with the cost of its prefill.

    Example:
        >>> import tokentape as tt
        >>> frame = tt.cache_df(store, run_id)
        >>> known = frame["reused_tokens"] + frame["computed_tokens"]
        >>> bool((known == frame["prompt_tokens"]).all())
        True
    """
    schema = chosen_columns(CACHE_DF, columns)
    selection = selection_of(
        store, run_id, turns, frame_rows.BODY_COLUMNS, kinds=frame_rows.CACHE_KINDS
    )
    return folded_frame(store, selection, frame_rows.cache_rows, schema, dtype_backend)


@suggests_keywords
def tools_df(
    store: Source,
    run_id: RunIds = None,
    *,
    turns: Turns = None,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return one row for each tool result; `call` is the call in Python's syntax.

    Example:
        >>> import tokentape as tt
        >>> len(tt.tools_df(store, run_id))
        1
    """
    schema = chosen_columns(TOOLS_DF, columns)
    selection = selection_of(
        store, run_id, turns, frame_rows.BODY_COLUMNS, kinds=frame_rows.TOOL_KINDS
    )
    return folded_frame(store, selection, frame_rows.tool_rows, schema, dtype_backend)


@suggests_keywords
def messages_df(
    store: Source,
    run_id: RunIds = None,
    *,
    turns: Turns = None,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return one row for each message, replies included, ordered by run and `seq`.

    Not included are the reply of a turn that was cut off, and messages that no turn began with
    before the run was resumed.

    Example:
        >>> import tokentape as tt
        >>> tt.messages_df(store, run_id, turns=2)["role"].tolist()
        ['user', 'assistant']
    """
    schema = chosen_columns(MESSAGES_DF, columns)
    selection = selection_of(
        store, run_id, turns, frame_rows.BODY_COLUMNS, kinds=event_rows.MESSAGE_KINDS
    )
    fold = event_rows.message_rows
    return folded_frame(store, selection, fold, schema, dtype_backend)


@suggests_keywords
def interventions_df(
    store: Source,
    run_id: RunIds = None,
    *,
    turns: Turns = None,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return one row for each time an intervention was requested, withdrawn, applied or removed.

    An applied one acts from `from_position` of `turn` up to `to_position` of `to_turn`.

    Example:
        >>> import tokentape as tt
        >>> tt.interventions_df(store, run_id)["event"].tolist()
        []
    """
    schema = chosen_columns(INTERVENTIONS_DF, columns)
    selection = selection_of(
        store, run_id, turns, frame_rows.BODY_COLUMNS, kinds=event_rows.INTERVENTION_KINDS
    )
    fold = event_rows.intervention_rows
    return folded_frame(store, selection, fold, schema, dtype_backend, whole_runs=True)


@suggests_keywords
def activations_df(
    store: Source,
    run_id: RunIds = None,
    *,
    turns: Turns = None,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return the statistics of observed layers: a row for each layer and range of positions.

    Example:
        >>> import tokentape as tt
        >>> tt.activations_df(store, run_id)["layer"].tolist()
        []
    """
    schema = chosen_columns(ACTIVATIONS_DF, columns)
    selection = selection_of(
        store, run_id, turns, frame_rows.BODY_COLUMNS, kinds=event_rows.ACTIVATION_KINDS
    )
    return folded_frame(store, selection, event_rows.activation_rows, schema, dtype_backend)


@suggests_keywords
def verdicts_df(
    store: Source,
    run_id: RunIds = None,
    *,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return one row for each stored verdict, ordered by run and time. Reports are not read.

    Example:
        >>> import tokentape as tt
        >>> tt.verdicts_df(store, columns=["replay", "verdict"]).columns.tolist()
        ['replay', 'verdict']
    """
    schema = chosen_columns(VERDICTS_DF, columns)
    table = store.verdicts_table(selection_of(store, run_id, None, schema.names))
    with damage_of(store):
        return frame_of(table, schema, dtype_backend)


def _as_events(tokens: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return sampled tokens with the columns of events."""
    constant = {
        "kind": pa.scalar(TOKEN_KIND, NAME),
        "seal": pa.scalar(None, pa.string()),
    }
    columns = [
        pa.repeat(constant[field.name], len(tokens))
        if field.name in constant
        else tokens[field.name].cast(field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _flat(table: pa.Table, names: Sequence[str], lists: Mapping[str, str]) -> pa.Table:
    """Return a row for each element of the lists; `lists` has the column of each list by name."""
    ids = table["top_ids"].combine_chunks()
    counts = ids.value_lengths().fill_null(0).to_numpy()
    parents = pa.array(np.repeat(np.arange(len(counts)), counts))
    firsts = np.cumsum(counts) - counts
    own = {"rank": pa.array(np.arange(len(parents), dtype=np.int32) - np.repeat(firsts, counts))}
    flat = {
        name: own[name]
        if name in own
        else table[lists[name]].combine_chunks().flatten()
        if name in lists
        else table[name].take(parents)
        for name in names
    }
    return pa.table(flat)


def _sort_order(table: pa.Table) -> pa.Array:
    """Return the order of rows by run and `seq`."""
    runs = table["run_id"].unify_dictionaries().combine_chunks()
    ids = runs.dictionary.to_pylist()
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    keys = rank[runs.indices.to_numpy()] << 32 | table["seq"].to_numpy()
    return pa.array(np.argsort(keys, kind="stable"))
