"""Faults of a whole database that no check of one run finds: pages, keys and rows of no run."""

from sqlalchemy import Connection

from tokentape.store.live.schema_version import VERSION_TABLE, tables_of
from tokentape.store.live.tables import SEQ_BITS, metadata

_KEYS_MAX = 1 << 63 - SEQ_BITS
"""Event keys have 63 bits."""
_OWN_TABLES = {*metadata.tables, VERSION_TABLE, "alembic_version"}
_STREAM_OF_NO_RUN = (
    "WITH RECURSIVE streams (run_key) AS (SELECT min(event_key) >> {bits} FROM {table} UNION ALL "
    "SELECT (SELECT min(event_key) >> {bits} FROM {table} "
    "WHERE event_key >= (streams.run_key + 1) << {bits}) FROM streams "
    f"WHERE run_key < {_KEYS_MAX - 1}) "
    "SELECT count(*) FROM streams WHERE run_key IS NOT NULL "
    "AND run_key NOT IN (SELECT run_key FROM runs)"
)
"""Counts the keys before `seq` that no run has, by one search in the primary key for each."""
_ORPHANS = "SELECT count(*) FROM {table} WHERE run_key NOT IN (SELECT run_key FROM runs)"
_ERASED = "SELECT count(*) FROM runs JOIN tombstones ON tombstones.run_id = runs.run_id"


def page_faults(connection: Connection) -> list[str]:
    """Return what SQLite finds in its pages and indexes, a line for each fault.

    Expressions in tables of another application are not computed: they might take for ever.
    """
    connection.exec_driver_sql("PRAGMA ignore_check_constraints=ON")
    try:
        found = tables_of(connection)
        checks = ["PRAGMA integrity_check"]
        if not found <= _OWN_TABLES:
            checks = [f"PRAGMA integrity_check({name})" for name in sorted(metadata.tables)]
        answers = [
            answer for check in checks for answer in connection.exec_driver_sql(check).scalars()
        ]
    finally:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints=OFF")
    return [answer for answer in answers if answer != "ok"]


def key_faults(connection: Connection) -> list[str]:
    """Return which rows belong to no run or to an erased one, a line for each fault."""
    faults = []
    for table in ("events", "tokens"):
        query = _STREAM_OF_NO_RUN.format(table=table, bits=SEQ_BITS)
        if connection.exec_driver_sql(query).scalar_one():
            faults.append(f"there are {table} without a run")
    for table in ("verdicts", "floors", "run_labels"):
        if connection.exec_driver_sql(_ORPHANS.format(table=table)).scalar_one():
            faults.append(f"there are {table} without a run")
    if connection.exec_driver_sql(_ERASED).scalar_one():
        faults.append("a run is there that was erased")
    if connection.dialect.name == "sqlite":
        faults += _sequence_faults(connection)
    return faults


def _sequence_faults(connection: Connection) -> list[str]:
    """Return a fault if the next run might get the key of an erased run."""
    highest = connection.exec_driver_sql("SELECT max(run_key) FROM runs").scalar()
    query = "SELECT seq FROM sqlite_sequence WHERE name = 'runs'"
    counters = connection.exec_driver_sql(query).scalars().all()
    if highest is None and not counters:
        return []
    is_right = len(counters) == 1 and (highest or 0) <= counters[0] < _KEYS_MAX
    return [] if is_right else ["the counter of run keys is damaged"]
