"""Rows of `verdicts`, `floors` and `run_labels` in a database, with bodies compressed by zlib."""

import zlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from sqlalchemy import Row, Select, Table, select

from tokentape.store.arrow import AT, VERDICTS
from tokentape.store.attachments import BODIES, TABLES, Attachment, K, attachment_of, row_of
from tokentape.store.errors import StoreError
from tokentape.store.live.tables import floors, run_labels, runs, verdicts

FIGURES = [name for name in VERDICTS.names if name not in ("run_id", "at", "sha256", "report")]
_TABLES: Mapping[str, Table] = {"verdicts": verdicts, "floors": floors, "run_labels": run_labels}


def insert_statement(table: str, placeholder: str) -> str:
    """Return the statement that inserts a row, unless it exists."""
    names = [column.name for column in _TABLES[table].columns]
    placeholders = ", ".join([placeholder] * len(names))
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({placeholders}) ON CONFLICT DO NOTHING"
    )


def inserted_values(run_key: int, attachment: Attachment) -> list[Any]:
    """Return the values for `insert_statement`."""
    row = row_of(attachment) | {"run_key": run_key}
    body = BODIES.get(type(attachment))
    if body is not None:
        row[body] = zlib.compress(row[body].encode())
    return [row[column.name] for column in _TABLES[TABLES[type(attachment)]].columns]


def rows_query(kind: type[Attachment], run_id: str) -> Select[Any]:
    """Return the query for the rows of a run, the oldest first."""
    table = _TABLES[TABLES[kind]]
    query = select(*table.columns).join_from(runs, table, table.c.run_key == runs.c.run_key)
    return query.where(runs.c.run_id == run_id).order_by(table.c.at_us, table.c.sha256)


def attachment_of_row(kind: type[K], run_id: str, row: Row[Any], where: str) -> K:
    """Return the attachment in a row. Raise StoreError if it is damaged or was altered."""
    values = dict(row._mapping)
    body = BODIES.get(kind)
    try:
        if body is not None:
            values[body] = zlib.decompress(values[body]).decode()
    except (TypeError, ValueError, zlib.error) as error:
        raise StoreError(
            f"{where}: a row of {TABLES[kind]} of run {run_id} is damaged: {error}"
        ) from None
    return attachment_of(kind, run_id, values, where)


def labels_query() -> Select[Any]:
    """Return the query for the labels of all runs, the oldest first."""
    query = select(runs.c.run_id, run_labels.c.label, run_labels.c.text)
    query = query.join_from(runs, run_labels, run_labels.c.run_key == runs.c.run_key)
    return query.order_by(run_labels.c.run_key, run_labels.c.at_us, run_labels.c.sha256)


def figures_query(names: list[str]) -> Select[Any]:
    """Return the query for run id, time and the named columns of all verdicts."""
    columns = [runs.c.run_id, verdicts.c.at_us, *(verdicts.c[name] for name in names)]
    query = select(*columns).join_from(runs, verdicts, verdicts.c.run_key == runs.c.run_key)
    return query.order_by(runs.c.run_id, verdicts.c.at_us, verdicts.c.sha256)


def figures_table(names: list[str], rows: list[Row[Any]]) -> pa.Table:
    """Return the rows of `figures_query` as a table.

    Raise ValueError, TypeError or OverflowError for damaged rows.
    """
    schema = pa.schema([VERDICTS.field(name) for name in ("run_id", "at", *names)])
    run_ids, at_us, *values = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [
        pa.array(run_ids, pa.string()),
        pa.array(at_us, pa.int64()).cast(AT),
        *map(pa.array, values),
    ]
    columns = [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)]
    return pa.table(columns, schema=schema)
