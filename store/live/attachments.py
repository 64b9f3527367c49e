"""What is kept beside a run as rows of `verdicts` and `floors`: bodies are compressed."""

import zlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from sqlalchemy import Row, Select, Table, select

from tokentape.store.arrow import AT, VERDICTS
from tokentape.store.attachments import BODIES, TABLES, Attachment, K, attachment_of, row_of
from tokentape.store.errors import StoreError
from tokentape.store.live.tables import floors, runs, verdicts

FIGURES = [name for name in VERDICTS.names if name not in ("run_id", "at", "sha256", "report")]
_TABLES: Mapping[str, Table] = {"verdicts": verdicts, "floors": floors}


def insert_statement(table: str, mark: str) -> str:
    """It has no effect where the row is there already."""
    names = [column.name for column in _TABLES[table].columns]
    marks = ", ".join([mark] * len(names))
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT DO NOTHING"


def inserted_values(run_key: int, kept: Attachment) -> list[Any]:
    """The values of `insert_statement`."""
    body = BODIES[type(kept)]
    row = row_of(kept)
    row |= {"run_key": run_key, body: zlib.compress(row[body].encode())}
    return [row[column.name] for column in _TABLES[TABLES[type(kept)]].columns]


def rows_query(kind: type[Attachment], run_id: str) -> Select[Any]:
    """The rows of a run, the oldest first."""
    table = _TABLES[TABLES[kind]]
    query = select(*table.columns).join_from(runs, table, table.c.run_key == runs.c.run_key)
    return query.where(runs.c.run_id == run_id).order_by(table.c.at_us, table.c.sha256)


def attachment_of_row(kind: type[K], run_id: str, row: Row[Any], where: str) -> K:
    """What a row was made from. Raises StoreError as `attachment_of` does."""
    values = dict(row._mapping)
    body = BODIES[kind]
    try:
        values[body] = zlib.decompress(values[body]).decode()
    except (TypeError, ValueError, zlib.error) as error:
        raise StoreError(
            f"{where}: a row of {TABLES[kind]} of run {run_id} is damaged: {error}"
        ) from None
    return attachment_of(kind, run_id, values, where)


def figures_query(names: list[str]) -> Select[Any]:
    """Verdicts of all runs without their reports: run id, time, and the columns of those names."""
    columns = [runs.c.run_id, verdicts.c.at_us, *(verdicts.c[name] for name in names)]
    query = select(*columns).join_from(runs, verdicts, verdicts.c.run_key == runs.c.run_key)
    return query.order_by(runs.c.run_id, verdicts.c.at_us, verdicts.c.sha256)


def figures_table(names: list[str], rows: list[Row[Any]]) -> pa.Table:
    """Rows of `figures_query`. Raises ValueError, TypeError or OverflowError for damaged ones."""
    schema = pa.schema([VERDICTS.field(name) for name in ("run_id", "at", *names)])
    run_ids, at_us, *values = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [
        pa.array(run_ids, pa.string()),
        pa.array(at_us, pa.int64()).cast(AT),
        *map(pa.array, values),
    ]
    columns = [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)]
    return pa.table(columns, schema=schema)
