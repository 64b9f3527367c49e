"""Columns from the rows of events and tokens, a batch of rows at a time."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from tokentape.store.arrow import AT
from tokentape.store.live.tables import SEQ_BITS, SEQ_MASK
from tokentape.store.source import Selection

_ROWS_AT_ONCE = 2_000
_INTEGER_ROWS_AT_ONCE = 100_000


class RunPositions:
    """The positions of runs, by key, in a list ordered by run id."""

    def __init__(self, run_keys: list[int]) -> None:
        self._by_key = np.argsort(np.array(run_keys, np.int64), kind="stable")
        self._keys = np.array(run_keys, np.int64)[self._by_key]

    def key_ranges(self, selection: Selection) -> list[tuple[int, int]]:
        """Return the first and last event key of each query.

        Whole streams of all runs take one query, and so do those of runs with adjoining keys; the
        ends of streams take a query for each run.
        """
        keys: list[int] = self._keys.tolist()
        if selection.after_seq is not None:
            first = max(0, selection.after_seq + 1)
            return [((key << SEQ_BITS) + first, key << SEQ_BITS | SEQ_MASK) for key in keys]
        starts = [
            place for place, key in enumerate(keys) if not place or key != keys[place - 1] + 1
        ]
        if selection.run_ids is None:
            starts = starts[:1]
        ends = [*starts[1:], len(keys)]
        return [
            (keys[start] << SEQ_BITS, keys[end - 1] << SEQ_BITS | SEQ_MASK)
            for start, end in zip(starts, ends[: len(starts)], strict=True)
        ]

    def of(self, run_keys: Any) -> Any:
        places = np.searchsorted(self._keys, run_keys)
        if np.any(self._keys[np.minimum(places, len(self._keys) - 1)] != run_keys):
            raise ValueError("there are events without a run")
        return self._by_key[places]


def batches(cursor: Any) -> Iterator[list[Any]]:
    """Yield columns of any type, many rows at once."""
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        yield list(zip(*rows, strict=True))


def integer_batches(cursor: Any) -> Iterator[list[Any]]:
    """Yield columns of integers, many rows at once, several times faster than `batches`."""
    width = len(cursor.description)
    while True:
        rows = itertools.islice(cursor, _INTEGER_ROWS_AT_ONCE)
        numbers = np.fromiter(itertools.chain.from_iterable(rows), np.int64)
        if not len(numbers):
            return
        yield list(numbers.reshape(-1, width).T)


def envelope_columns(
    event_keys: Any, after: Any, numbers: RunPositions, starts_us: Any
) -> dict[str, pa.Array]:
    keys = np.array(event_keys, np.int64)
    after_us = np.array(after, np.int64)
    number = numbers.of(keys >> SEQ_BITS)
    return {
        "run_id": pa.array(number.astype(np.int32)),
        "seq": pa.array((keys & SEQ_MASK).astype(np.int32)),
        "at": pa.array(after_us + starts_us[number]).cast(AT),
    }


def joined(parts: list[dict[str, pa.Array]], run_ids: list[str], schema: pa.Schema) -> pa.Table:
    """Return one table, ordered by run id and `seq`; the parts are ordered by run key."""
    names = pa.array(run_ids, pa.string())
    columns = []
    for field in schema:
        chunks = [part[field.name] for part in parts]
        if field.name == "run_id":
            chunks = [pa.DictionaryArray.from_arrays(chunk, names) for chunk in chunks]
        columns.append(pa.chunked_array([chunk.cast(field.type) for chunk in chunks], field.type))
    table = pa.table(columns, schema=schema)
    numbers = np.concatenate([part["run_id"].to_numpy() for part in parts] or [np.zeros(0)])
    if np.any(np.diff(numbers) < 0):
        table = table.take(pa.array(np.argsort(numbers, kind="stable")))
    return table
