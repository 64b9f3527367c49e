"""Records of sealed runs, from rows of their files."""

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from itertools import chain
from operator import and_, attrgetter

import pyarrow as pa
import pyarrow.compute as pc

from tokentape.recorder import Record
from tokentape.recorder.events import TOKEN_KIND
from tokentape.recorder.limits import oversize
from tokentape.recorder.record import RecordFilter
from tokentape.store.arrow import TOKENS
from tokentape.store.sealed.expansion import ExpansionError

TOP_COLUMNS = ("top_ids", "top_logprobs")
_TOKEN_FIELDS = [name for name in TOKENS.names if name not in ("run_id", "seq", "at", "version")]


def check_texts(rows: pa.Table | pa.RecordBatch, bytes_max: int) -> None:
    """Raise ExpansionError for a single text that takes too much to be parsed and copied."""
    for field, column in zip(rows.schema, rows.columns, strict=True):
        if pa.types.is_string(field.type) and column.nbytes > bytes_max:
            longest = pc.max(pc.binary_length(column)).as_py() or 0
            fault = oversize(f"one {field.name}", longest, bytes_max)
            if fault:
                raise ExpansionError(fault)


def has_rows(table: str, chosen: RecordFilter) -> bool:
    """Return whether a filter can select rows of `events` or of `tokens`."""
    return table == "events" or chosen.has_kind(TOKEN_KIND)


def condition_of(table: str, chosen: RecordFilter) -> pc.Expression:
    """Return the condition on rows of `events` or `tokens`; row groups outside are not read."""
    seq, turn = pc.field("seq"), pc.field("turn")
    conditions = [seq > chosen.after_seq]
    if chosen.last_seq is not None:
        conditions.append(seq <= chosen.last_seq)
    if chosen.first_turn is not None:
        conditions.append((turn >= chosen.first_turn) | turn.is_null())
    if chosen.last_turn is not None:
        conditions.append((turn <= chosen.last_turn) | turn.is_null())
    if chosen.kinds is not None and table == "events":
        conditions.append(pc.field("kind").isin(sorted(chosen.kinds)))
    return reduce(and_, conditions)


def records_of(rows: Mapping[str, pa.Table], newest: int | None) -> Iterator[Record]:
    """Yield the records of selected rows by table, in order; with `newest`, the last so many."""
    counts = {name: len(table) if newest is None else newest for name, table in rows.items()}
    last = {name: table.slice(max(0, len(table) - counts[name])) for name, table in rows.items()}
    makers = {"events": event_records, "tokens": token_records}
    found = sorted(
        chain.from_iterable(
            makers[name](batch) for name, table in last.items() for batch in table.to_batches()
        ),
        key=attrgetter("seq"),
    )
    yield from found if newest is None else found[max(0, len(found) - newest) :]


def event_records(batch: pa.RecordBatch) -> Iterator[Record]:
    """Yield the records of rows of `events`."""
    _check_no_nulls(batch, ("seq", "at", "kind", "version", "body"))
    columns = [batch[name].to_pylist() for name in ("kind", "version", "body", "turn", "seal")]
    for seq, at_us, *rest in zip(batch["seq"].to_pylist(), _at_us(batch), *columns, strict=True):
        yield Record(seq, at_us, *rest)


def token_records(batch: pa.RecordBatch) -> Iterator[Record]:
    """Yield the records of rows of `tokens`."""
    _check_no_nulls(batch, ("seq", "at", "version", *_TOKEN_FIELDS))
    columns = [batch[name].to_pylist() for name in _TOKEN_FIELDS]
    for name in TOP_COLUMNS:
        place = _TOKEN_FIELDS.index(name)
        columns[place] = [tuple(each) for each in columns[place]]
    heads = (batch["seq"].to_pylist(), _at_us(batch), batch["version"].to_pylist())
    for seq, at_us, version, *values in zip(*heads, *columns, strict=True):
        body = dict(zip(_TOKEN_FIELDS, values, strict=True))
        yield Record(seq, at_us, TOKEN_KIND, version, body, body["turn"])


def _check_no_nulls(batch: pa.RecordBatch, names: Iterable[str]) -> None:
    """Raise ValueError for a column that lacks a value; every event has one."""
    for name in names:
        if batch[name].null_count:
            raise ValueError(f"its column {name} lacks values")


def _at_us(batch: pa.RecordBatch) -> list[int]:
    return list(batch["at"].cast(pa.int64()).to_pylist())
