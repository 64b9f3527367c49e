"""Queries for the records of one run in a live store."""

import heapq
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, or_, select

from tokentape.recorder import Record
from tokentape.recorder.events import TOKEN_KIND
from tokentape.recorder.record import RecordFilter, SampledIds
from tokentape.store.live.packing import COLUMNS, Packing
from tokentape.store.live.tables import SEQ_BITS, SEQ_MASK, events, tokens


def select_records(
    reader: Connection, run: Row[Any], packing: Packing, chosen: RecordFilter
) -> Iterator[Record]:
    """Yield the records of a run that a filter selects, in order.

    Only they are read: `seq` bounds the pages that the database visits.
    """
    started_us = run.started_at_us
    event_query = _within(select(*events.columns), events, run.run_key, chosen)
    columns = (tokens.c.event_key, tokens.c.after_us, *(tokens.c[name] for name in COLUMNS))
    token_query = _within(select(*columns), tokens, run.run_key, chosen)
    others = None if chosen.kinds is None else chosen.kinds - {TOKEN_KIND}
    if others is not None:
        event_query = event_query.where(events.c.kind.in_(sorted(others)))
    if not chosen.has_kind(TOKEN_KIND):
        token_query = token_query.limit(0)
    # Closed explicitly: a cursor in a traceback would keep the file open.
    with (
        reader.execute(event_query).yield_per(1000) as event_rows,
        reader.execute(token_query).yield_per(1000) as token_rows,
    ):
        event_records = (_event_record(row, started_us) for row in event_rows)
        token_records = (_token_record(row, started_us, packing) for row in token_rows)
        if chosen.newest is None:
            yield from heapq.merge(event_records, token_records, key=attrgetter("seq"))
        else:
            # Both are the newest first.
            found = sorted([*event_records, *token_records], key=attrgetter("seq"))
            yield from found[max(0, len(found) - chosen.newest) :]


def select_sampled_ids(
    reader: Connection, run_key: int, after_seq: int, last_seq: int | None
) -> SampledIds:
    """Return the ids of the tokens of a run after one `seq` and up to another."""
    within = _keys(tokens, run_key, after_seq, last_seq)
    query = select(tokens.c.event_key, tokens.c.token_id).where(within)
    rows = reader.execute(query.order_by(tokens.c.event_key)).all()
    return SampledIds([key & SEQ_MASK for key, _ in rows], [token_id for _, token_id in rows])


def _within(query: Select[Any], table: Table, run_key: int, chosen: RecordFilter) -> Select[Any]:
    query = query.where(_keys(table, run_key, chosen.after_seq, chosen.last_seq))
    turn = table.c.turn
    if chosen.first_turn is not None:
        query = query.where(or_(turn >= chosen.first_turn, turn.is_(None)))
    if chosen.last_turn is not None:
        query = query.where(or_(turn <= chosen.last_turn, turn.is_(None)))
    if chosen.newest is None:
        return query.order_by(table.c.event_key)
    return query.order_by(table.c.event_key.desc()).limit(chosen.newest)


def _keys(table: Table, run_key: int, after_seq: int, last_seq: int | None) -> ColumnElement[bool]:
    lowest = run_key << SEQ_BITS
    last = SEQ_MASK if last_seq is None else min(max(last_seq, -1), SEQ_MASK)
    return table.c.event_key.between(lowest + max(after_seq + 1, 0), lowest + last)


def _event_record(row: Row[Any], started_us: int) -> Record:
    if not (isinstance(row.kind, str) and isinstance(row.body, str)):
        raise TypeError(f"event {row.event_key & SEQ_MASK} is not text")
    return Record(
        seq=row.event_key & SEQ_MASK,
        at_us=started_us + row.after_us,
        kind=row.kind,
        version=row.version,
        body=row.body,
        turn=row.turn,
        seal=row.seal,
    )


def _token_record(row: Row[Any], started_us: int, packing: Packing) -> Record:
    event_key, after_us, version, *packed = tuple(row)
    fields = packing.token(packed)
    at_us = started_us + after_us
    return Record(event_key & SEQ_MASK, at_us, TOKEN_KIND, version, fields, fields["turn"])
