"""The tables of a live store.

`seq` numbers the events of a run across `events` and `tokens`: a sampled token is a typed row of
`tokens`, every other event a row of `events` with a JSON body. `event_key` holds the run's key in
its upper bits and `seq` in the lower `SEQ_BITS`: one integer, by which SQLite orders its pages.
`after_us` counts microseconds from the start of the run.

SQLite has no number smaller than eight bytes, so it stores the bits of float32 (`_f32`) and of
half-precision numbers (`_f16`) as integers; in PostgreSQL they are `real`. The views decode them.
`verdicts`, `floors` and `run_labels` have the columns of `tokentape.store.attachments.row_of`.
Migrations never import this file; a test checks that both are equal.
"""

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    Column,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

SEQ_BITS = 28
SEQ_MASK = (1 << SEQ_BITS) - 1

metadata = MetaData()

_Key = BigInteger().with_variant(Integer, "sqlite")
_Float32 = Integer().with_variant(REAL, "postgresql")
_Float16 = SmallInteger().with_variant(REAL, "postgresql")

runs = Table(
    "runs",
    metadata,
    Column("run_key", Integer, primary_key=True),
    Column("run_id", String(36), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("model", Text, nullable=False),
    Column("seed", BigInteger),
    Column("started_at_us", BigInteger, nullable=False),
    Column("updated_at_us", BigInteger, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("reused_tokens", BigInteger, nullable=False),
    Column("generated_tokens", BigInteger, nullable=False),
    Column("parent_run_id", String(36)),
    Column("forked_at_turn", Integer),
    # A process that still records an erased run must not write into another run under its key.
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("event_key", _Key, primary_key=True, autoincrement=False),
    Column("after_us", BigInteger, nullable=False),
    Column("turn", Integer),
    Column("kind", String(40), nullable=False),
    Column("version", SmallInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("seal", String(80)),
)

tokens = Table(
    "tokens",
    metadata,
    Column("event_key", _Key, primary_key=True, autoincrement=False),
    Column("after_us", BigInteger, nullable=False),
    Column("version", SmallInteger, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("token_id", Integer, nullable=False),
    Column("logprob_f32", _Float32, nullable=False),
    Column("logprob_processed_f32", _Float32, nullable=False),
    Column("entropy_f16", _Float16, nullable=False),
    Column("top_gap_f16", _Float16, nullable=False),
    Column("duration_us", BigInteger, nullable=False),
    # In SQLite: little-endian integers, all as wide as the largest of the row needs.
    Column("top_ids", LargeBinary().with_variant(ARRAY(Integer), "postgresql")),
    Column("top_logprobs_f16", LargeBinary().with_variant(ARRAY(REAL), "postgresql")),
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("payload", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("run_id", String(36), primary_key=True),
    Column("erased_at_us", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("last_seal", String(80)),
    sqlite_with_rowid=False,
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("run_key", Integer, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, primary_key=True, autoincrement=False),
    Column("sha256", String(64), primary_key=True),
    Column("replay", String(80), nullable=False),
    Column("verdict", String(80), nullable=False),
    Column("reason", Text),
    Column("model", Text),
    Column("floor_version", Text),
    Column("turns", Integer),
    Column("tokens", BigInteger),
    Column("mismatches", BigInteger),
    Column("near_ties", BigInteger),
    Column("logprob_difference_max", Double),
    Column("margin_max", Double),
    Column("duration_us", BigInteger),
    # Canonical JSON, compressed by zlib. Last, so that SQLite can skip it.
    Column("report", LargeBinary, nullable=False),
)

floors = Table(
    "floors",
    metadata,
    Column("run_key", Integer, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, primary_key=True, autoincrement=False),
    Column("sha256", String(64), primary_key=True),
    Column("version", String(80), nullable=False),
    Column("floor", LargeBinary, nullable=False),
)

run_labels = Table(
    "run_labels",
    metadata,
    Column("run_key", Integer, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, primary_key=True, autoincrement=False),
    Column("sha256", String(64), primary_key=True),
    Column("label", String(80), nullable=False),
    Column("text", Text, nullable=False),
)

_REFUSED = {
    "events": ("update", "delete", "gap"),
    "tokens": ("update", "delete", "gap"),
    "blobs": ("update", "delete"),
    "runs": ("delete", "move"),
    "tombstones": ("update", "delete"),
    "verdicts": ("update", "delete", "orphan"),
    "floors": ("update", "delete", "orphan"),
    "run_labels": ("update", "delete", "orphan"),
}
TRIGGERS = frozenset(
    f"{table}_refuse_{what}" for table, refused in _REFUSED.items() for what in refused
)
"""The triggers that protect recordings. PostgreSQL also has `<table>_refuse_truncate`."""
