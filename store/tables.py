"""The tables of a live store.

`seq` numbers the events of a run across `events` and `tokens`: a sampled token is a typed row of
`tokens`, every other event a row of `events` with a JSON body. Migrations never import this file;
a test holds the two equal.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    # A small key, because every token row carries it; `run_id` is what people see.
    Column("run_key", Integer, primary_key=True),
    Column("run_id", String(36), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("model", Text, nullable=False),
    Column("seed", BigInteger),
    Column("started_at_ns", BigInteger, nullable=False),
    Column("updated_at_ns", BigInteger, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("reused_tokens", BigInteger, nullable=False),
    Column("generated_tokens", BigInteger, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("run_key", ForeignKey("runs.run_key"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("version", SmallInteger, nullable=False),
    Column("body", Text, nullable=False),
    sqlite_with_rowid=False,
)

tokens = Table(
    "tokens",
    metadata,
    Column("run_key", ForeignKey("runs.run_key"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("version", SmallInteger, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("token_id", Integer, nullable=False),
    Column("logprob", Double, nullable=False),
    Column("logprob_processed", Double, nullable=False),
    Column("entropy", Double, nullable=False),
    Column("top_gap", Double, nullable=False),
    Column("duration_ms", Double, nullable=False),
    # Little-endian int32 and float32, best candidate first.
    Column("candidate_ids", LargeBinary),
    Column("candidate_logprobs", LargeBinary),
    sqlite_with_rowid=False,
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("payload", LargeBinary, nullable=False),
)
