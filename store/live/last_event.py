"""The time of the last event of a run."""

from typing import Any

from sqlalchemy import Connection, select

from tokentape.store.live.tables import SEQ_BITS, SEQ_MASK, events, runs, tokens


def last_event_at_us(reader: Connection, run_id: str) -> int:
    """Return when the last event of a run was recorded, in microseconds since 1970; 0 for none.

    Two rows are read: the last event and the last token.
    """
    run = reader.execute(
        select(runs.c.run_key, runs.c.started_at_us).where(runs.c.run_id == run_id)
    ).one_or_none()
    if run is None:
        return 0
    first = run.run_key << SEQ_BITS
    newest: list[Any] = []
    for table in (events, tokens):
        key = table.c.event_key
        query = select(key, table.c.after_us).where(key.between(first, first | SEQ_MASK))
        newest += reader.execute(query.order_by(key.desc()).limit(1)).all()
    after_us = max(newest, key=lambda row: row.event_key).after_us if newest else 0
    return int(run.started_at_us + after_us)
