"""Comparison of the schema of a PostgreSQL database with what our statements rely on.

Names and kinds of tables and views, the triggers on them, and all that adds or hides rows: rules,
row security, child tables. The definitions of columns, views and functions are not compared.
"""

from collections.abc import Collection, Iterator, Mapping

from sqlalchemy import Connection, text

_KINDS = {"r": "table", "v": "view", "m": "materialized view", "f": "foreign table"}
_RELATIONS = text(
    "SELECT relname, relkind, relrowsecurity "
    "OR EXISTS (SELECT 1 FROM pg_inherits WHERE inhparent = pg_class.oid) "
    "OR EXISTS (SELECT 1 FROM pg_rewrite WHERE ev_class = pg_class.oid AND rulename <> '_RETURN') "
    "AS is_altered FROM pg_class "
    "WHERE relnamespace = current_schema()::regnamespace"
)
_TRIGGERS = text(
    "SELECT tgname, relname, tgenabled, proname, pronamespace = relnamespace AS is_here "
    "FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid JOIN pg_proc ON pg_proc.oid = tgfoid "
    "WHERE NOT tgisinternal AND relnamespace = current_schema()::regnamespace"
)


def postgres_faults(
    connection: Connection, relations: Mapping[str, str], triggers: Collection[str]
) -> list[str]:
    """Return how the current schema differs from ours, a line for each difference.

    `relations` are the kinds of our tables and views by name.
    """
    return [
        *_relation_faults(connection, relations),
        *_trigger_faults(connection, relations, triggers),
    ]


def _relation_faults(connection: Connection, relations: Mapping[str, str]) -> Iterator[str]:
    found = {row.relname: row for row in connection.execute(_RELATIONS)}
    for name, kind in relations.items():
        row = found.get(name)
        if row is None:
            yield f"{kind} {name} is missing"
            continue
        other = _KINDS.get(row.relkind, "relation of another kind")
        if other != kind:
            yield f"{name} is a {other}, not our {kind}"
        elif row.is_altered:
            yield f"{kind} {name} has a child table, a rule or row security, not made by tokentape"


def _trigger_faults(
    connection: Connection, relations: Mapping[str, str], triggers: Collection[str]
) -> Iterator[str]:
    rows = [row for row in connection.execute(_TRIGGERS) if row.relname in relations]
    for name in sorted(set(triggers) - {row.tgname for row in rows}):
        yield f"trigger {name} is missing"
    for row in sorted(rows, key=lambda row: (row.relname, row.tgname)):
        name = row.tgname
        table, _, verb = name.partition("_refuse_")
        function = f"{table}_refuse_update" if verb == "truncate" else name
        if table != row.relname or not (name in triggers or verb == "truncate"):
            yield f"trigger {name} on our {row.relname} was not made by tokentape"
        elif row.tgenabled not in ("O", "A"):
            yield f"trigger {name} is disabled"
        elif (row.proname, row.is_here) != (function, True):
            yield f"trigger {name} calls another function than ours"
