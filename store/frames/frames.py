"""Recordings as pandas frames: typed columns, UTC times, no JSON.

Every function takes a store of any kind. `run_id` is an id or the unambiguous beginning of one, or
several of them; `turns` is a turn or several; None selects all. `columns` names the columns to
read, in order; no other column is read. `dtype_backend` is as in pandas' readers: None for NumPy's
types, with pandas' nullable ones where a value may be missing, "numpy_nullable" or "pyarrow". All
raise NoSuchRunError for an unknown run, StoreError for an unknown column, and RecordingError for a
damaged event. `tokentape.store.frames.columns` describes every column.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tokentape.recorder import RecordingError
from tokentape.recorder.damage import reporting_damage
from tokentape.recorder.events import TOKEN_KIND
from tokentape.recorder.plain_values import plain_number, plain_value
from tokentape.store.arrow import EVENTS, NAME
from tokentape.store.errors import StoreError
from tokentape.store.frames import rows as frame_rows
from tokentape.store.frames.columns import (
    CACHE_DF,
    EVENTS_DF,
    RUNS_DF,
    TOKENS_DF,
    TOOLS_DF,
    TOP_LOGPROBS_DF,
    TURNS_DF,
    VERDICTS_DF,
)
from tokentape.store.frames.types import DtypeBackend, to_pandas
from tokentape.store.labels import Labels
from tokentape.store.source import Selection, Source

RunIds = str | Iterable[str] | None
Turns = int | Iterable[int] | None
Columns = str | Iterable[str] | None


def runs_df(
    store: Source,
    run_id: RunIds = None,
    *,
    columns: Columns = None,
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return one row for each run, the oldest first.

    Example:
        >>> import tokentape as tt
        >>> tt.runs_df(store, columns=["status", "turns"])
             status  turns
        0  finished      3
    """
    schema = _chosen(RUNS_DF, columns)
    wanted = _run_ids(store, run_id)
    rows = []
    labels = store.labels_by_run()
    for summary in store.summaries():
        if wanted is None or summary.run_id in wanted:
            of_run = labels.get(summary.run_id, Labels())
            row = asdict(summary) | {"tags": of_run.joined_tags, "note": of_run.note}
            row["started_at"] = row["started_at_us"]
            row["updated_at"] = row["updated_at_us"]
            rows.append(row)
    with _damage_of(store):
        return to_pandas(pa.Table.from_pylist(rows, schema), dtype_backend)


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
    schema = _chosen(EVENTS_DF, columns)
    names = ("run_id", "seq", *schema.names)
    selection = _selection(store, run_id, turns, names)
    events = store.events_table(selection)
    tokens = store.tokens_table(selection)
    kept = pa.schema([field for field in EVENTS if field.name in names])
    with _damage_of(store):
        both = pa.concat_tables([events.select(kept.names), _as_events(tokens, kept)])
        return _frame(both.take(_sort_order(both)), schema, dtype_backend)


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
    schema = _chosen(TURNS_DF, columns)
    selection = _selection(
        store, run_id, turns, frame_rows.BODY_COLUMNS, kinds=frame_rows.TURN_KINDS
    )
    return _folded(store, selection, frame_rows.turn_rows, schema, dtype_backend)


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
    schema = _chosen(TOKENS_DF, columns)
    table = store.tokens_table(_selection(store, run_id, turns, schema.names))
    with _damage_of(store):
        return _frame(table, schema, dtype_backend)


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
    schema = _chosen(TOP_LOGPROBS_DF, columns)
    lists = {"token_id": "top_ids", "logprob": "top_logprobs"}
    names = (*(lists.get(name, name) for name in schema.names), "top_ids")
    table = store.tokens_table(_selection(store, run_id, turns, names))
    with _damage_of(store):
        return _frame(_flat(table, schema.names, lists), schema, dtype_backend)


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
    schema = _chosen(CACHE_DF, columns)
    selection = _selection(
        store, run_id, turns, frame_rows.BODY_COLUMNS, kinds=frame_rows.CACHE_KINDS
    )
    return _folded(store, selection, frame_rows.cache_rows, schema, dtype_backend)


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
    schema = _chosen(TOOLS_DF, columns)
    selection = _selection(
        store, run_id, turns, frame_rows.BODY_COLUMNS, kinds=frame_rows.TOOL_KINDS
    )
    return _folded(store, selection, frame_rows.tool_rows, schema, dtype_backend)


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
    schema = _chosen(VERDICTS_DF, columns)
    table = store.verdicts_table(_selection(store, run_id, None, schema.names))
    with _damage_of(store):
        return _frame(table, schema, dtype_backend)


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


def _chosen(schema: pa.Schema, columns: Columns) -> pa.Schema:
    if columns is None:
        return schema
    names = list(dict.fromkeys([columns] if isinstance(columns, str) else columns))
    unknown = [name for name in names if name not in schema.names]
    if unknown:
        raise StoreError(
            f"there is no column {', '.join(map(repr, unknown))}; there are "
            + ", ".join(schema.names)
        )
    return pa.schema([schema.field(name) for name in names])


def _run_ids(store: Source, run_id: RunIds) -> tuple[str, ...] | None:
    if run_id is None:
        return None
    wanted = [run_id] if isinstance(run_id, str) else run_id
    return tuple(dict.fromkeys(store.recording(each).run_id for each in wanted))


def _selection(
    store: Source,
    run_id: RunIds,
    turns: Turns,
    columns: Iterable[str],
    *,
    kinds: tuple[str, ...] | None = None,
) -> Selection:
    if turns is not None:
        turns = tuple(_turn_numbers(turns))
    return Selection(
        run_ids=_run_ids(store, run_id),
        turns=turns,
        kinds=kinds,
        columns=tuple(dict.fromkeys(columns)),
    )


def _turn_numbers(turns: Turns) -> Iterator[int]:
    """Yield the numbers of turns. Raise StoreError for one that is not whole."""
    plain = plain_value(turns)
    for each in plain if isinstance(plain, Iterable) and not isinstance(plain, str) else [plain]:
        number = plain_number(each)
        if not isinstance(number, int) or isinstance(number, bool):
            raise StoreError(f"turns are whole numbers: {number!r}")
        yield number


def _folded(
    store: Source,
    selection: Selection,
    fold: Callable[[pa.Table], list[dict[str, Any]]],
    schema: pa.Schema,
    dtype_backend: DtypeBackend,
) -> pd.DataFrame:
    rows = fold(store.events_table(selection))
    with _damage_of(store):
        return to_pandas(pa.Table.from_pylist(rows, schema), dtype_backend)


def _damage_of(store: Source) -> reporting_damage:
    """Return a context manager that raises RecordingError for values that no column can hold."""
    return reporting_damage(lambda why: RecordingError(f"a run in {store.where} is damaged: {why}"))


def _frame(table: pa.Table, schema: pa.Schema, dtype_backend: DtypeBackend) -> pd.DataFrame:
    columns = [table[field.name].cast(field.type) for field in schema]
    return to_pandas(pa.table(columns, schema=schema), dtype_backend)


def _sort_order(table: pa.Table) -> pa.Array:
    """Return the order of rows by run and `seq`."""
    runs = table["run_id"].unify_dictionaries().combine_chunks()
    ids = runs.dictionary.to_pylist()
    rank = np.empty(len(ids), np.int64)
    rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    keys = rank[runs.indices.to_numpy()] << 32 | table["seq"].to_numpy()
    return pa.array(np.argsort(keys, kind="stable"))
