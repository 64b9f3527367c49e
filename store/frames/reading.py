"""What the frames share: their arguments, and the way from rows to a frame."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import pyarrow as pa

from tokentape.recorder import RecordingError
from tokentape.recorder.damage import reporting_damage
from tokentape.recorder.plain_values import plain_number, plain_value
from tokentape.store.errors import StoreError
from tokentape.store.frames.types import DtypeBackend, to_pandas
from tokentape.store.source import Selection, Source

RunIds = str | Iterable[str] | None
Turns = int | Iterable[int] | None
Columns = str | Iterable[str] | None


def chosen_columns(schema: pa.Schema, columns: Columns) -> pa.Schema:
    """Return the columns to read. Raise StoreError for an unknown one."""
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


def run_ids_of(store: Source, run_id: RunIds) -> tuple[str, ...] | None:
    """Return full ids; None for all runs. Raise NoSuchRunError."""
    if run_id is None:
        return None
    wanted = [run_id] if isinstance(run_id, str) else run_id
    return tuple(dict.fromkeys(store.recording(each).run_id for each in wanted))


def selection_of(
    store: Source,
    run_id: RunIds,
    turns: Turns,
    columns: Iterable[str],
    *,
    kinds: tuple[str, ...] | None = None,
) -> Selection:
    """Return what to read for the arguments of a frame. Raise NoSuchRunError or StoreError."""
    if turns is not None:
        turns = tuple(_turn_numbers(turns))
    return Selection(
        run_ids=run_ids_of(store, run_id),
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


def folded_frame(
    store: Source,
    selection: Selection,
    fold: Callable[[pa.Table], list[dict[str, Any]]],
    schema: pa.Schema,
    dtype_backend: DtypeBackend,
    *,
    whole_runs: bool = False,
) -> pd.DataFrame:
    """Return a frame of the rows that are folded from the bodies of events.

    With `whole_runs` the events of all turns are folded, and the rows of other turns left out then:
    for rows that later turns add to.
    """
    turns = selection.turns if whole_runs else None
    rows = fold(store.events_table(replace(selection, turns=None) if whole_runs else selection))
    with damage_of(store):
        if turns is not None:
            rows = [row for row in rows if row["turn"] in turns]
        return to_pandas(pa.Table.from_pylist(rows, schema), dtype_backend)


def damage_of(store: Source) -> reporting_damage:
    """Return a context manager that raises RecordingError for values that no column can hold."""
    return reporting_damage(lambda why: RecordingError(f"a run in {store.where} is damaged: {why}"))


def frame_of(table: pa.Table, schema: pa.Schema, dtype_backend: DtypeBackend) -> pd.DataFrame:
    """Return a frame of a table that has the columns of the schema."""
    columns = [table[field.name].cast(field.type) for field in schema]
    return to_pandas(pa.table(columns, schema=schema), dtype_backend)
