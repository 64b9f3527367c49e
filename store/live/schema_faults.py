"""Comparison of the schema of a SQLite database with the one that the migrations make.

Tables, views, indexes and triggers of other applications in the same database are left alone. A
trigger on one of our tables is a fault, and so is an index that can refuse a row or that computes
something; an index over plain columns is not.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from tokentape.recorder.escapes import visible

_BYTES_MAX = 1_000_000
"""Only so many bytes of a definition are read; ours are much shorter."""
_NAME_CHARS = 80
_COLLATIONS = ("BINARY", "NOCASE", "RTRIM")
_WORD = re.compile(r"'(?:[^']|'')*'" + r'|"([A-Za-z_0-9]*)"' + r"|[^ \t\n\r\f'\"(),]+|[^ \t\n\r\f]")
_OBJECTS = (
    f"SELECT CAST(type AS BLOB) AS kind, substr(CAST(name AS BLOB), 1, {_BYTES_MAX}) AS name, "
    f"substr(CAST(tbl_name AS BLOB), 1, {_BYTES_MAX}) AS of_table, "
    f"substr(CAST(sql AS BLOB), 1, {_BYTES_MAX}) AS sql, rootpage FROM sqlite_master"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaObject:
    """A table, view, index or trigger of a SQLite database."""

    kind: str
    name: str
    table: str
    """The table of an index or a trigger; otherwise its own name."""
    sql: str
    """Its definition; empty for an index that SQLite made itself."""
    has_pages: bool
    """Whether it is a table or an index with rows of its own, unlike a virtual table."""

    def __str__(self) -> str:
        # Another program chose the name: it may be long, or contain control characters.
        name = self.name.encode("latin-1").decode(errors="backslashreplace")
        return f"{self.kind} {visible(name[:_NAME_CHARS])}"


Schema = Mapping[str, SchemaObject]
"""Objects by name in lower case, which SQLite does not distinguish from upper case."""


def schema_of(connection: Connection) -> Schema:
    """Return all objects of a SQLite database."""
    return _by_name(connection.exec_driver_sql(_OBJECTS))


def is_plain_table(connection: Connection, name: str) -> bool:
    """Return whether reading a table computes nothing: no view, no virtual table or column."""
    found = connection.exec_driver_sql(
        "SELECT type = 'table' AND rootpage > 0 FROM sqlite_master WHERE lower(name) = lower(?)",
        (name,),
    )
    if found.scalars().all() != [1]:
        return False
    columns = "SELECT count(*) FROM pragma_table_xinfo(?) WHERE hidden <> 0"
    return not connection.exec_driver_sql(columns, (name,)).scalar_one()


def schema_faults(connection: Connection, expected: Schema) -> list[str]:
    """Return how a SQLite database differs from our schema, a line for each difference."""
    return list(_schema_faults(connection, expected))


def _schema_faults(connection: Connection, expected: Schema) -> Iterator[str]:
    tables = {key for key, each in expected.items() if each.kind in ("table", "view")}
    names = (*sorted(expected), *sorted(tables))
    marks = [", ".join("?" * len(each)) for each in (expected, tables)]
    query = f"{_OBJECTS} WHERE lower(name) IN ({marks[0]}) OR lower(tbl_name) IN ({marks[1]})"
    found = _by_name(connection.exec_driver_sql(query, names))
    for key, ours in expected.items():
        theirs = found.get(key)
        if theirs is None:
            yield f"{ours} is missing"
        elif (theirs.kind, theirs.has_pages) != (ours.kind, ours.has_pages):
            virtual = "virtual " if theirs.kind == "table" and not theirs.has_pages else ""
            yield f"{ours.name} is a {virtual}{theirs.kind}, not our {ours.kind}"
        elif theirs.table.lower() != ours.table.lower() or not _is_same_sql(theirs.sql, ours.sql):
            yield f"{ours} differs from the one that tokentape makes"
    for key in sorted(found.keys() - expected.keys()):
        if found[key].kind != "index" or not _is_plain_index(connection, found[key]):
            yield f"{found[key]} on our {found[key].table.lower()} was not made by tokentape"


def _is_same_sql(one: str, other: str) -> bool:
    """Return whether two definitions differ at most in whitespace and in quotes of plain names."""
    return one == other or _words(one) == _words(other)


def _words(sql: str) -> list[str]:
    return [match[1] or match[0] for match in _WORD.finditer(sql)]


def _by_name(rows: Iterable[Any]) -> dict[str, SchemaObject]:
    objects = [
        SchemaObject(
            kind=_text(row.kind),
            name=_text(row.name),
            table=_text(row.of_table),
            sql=_text(row.sql),
            has_pages=bool(row.rootpage),
        )
        for row in rows
    ]
    return {each.name.lower(): each for each in objects}


def _text(value: object) -> str:
    """Return bytes as text of one character each: damaged names need not be UTF-8."""
    return value.decode("latin-1") if isinstance(value, bytes) else ""


def _is_plain_index(connection: Connection, index: SchemaObject) -> bool:
    """Return whether an index neither refuses a row nor computes anything."""
    refuses = connection.exec_driver_sql(
        'SELECT "unique" OR partial FROM pragma_index_list(?) WHERE lower(name) = lower(?)',
        (index.table, index.name),
    ).scalar()
    columns = connection.exec_driver_sql(
        "SELECT cid, coll FROM pragma_index_xinfo(?)", (index.name,)
    )
    return refuses == 0 and all(
        cid != -2 and (coll or "BINARY").upper() in _COLLATIONS for cid, coll in columns
    )
