"""The tables of schema 0001.

`event_key` holds the run's key in its upper bits and `seq` in its lower 28. SQLite has no number
of less than eight bytes, so there the bits of float32 (`_f32`) and of half-precision numbers
(`_f16`) are integers.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
FLOAT32 = sa.Integer().with_variant(sa.REAL, "postgresql")
FLOAT16 = sa.SmallInteger().with_variant(sa.REAL, "postgresql")
IDS = sa.LargeBinary().with_variant(sa.ARRAY(sa.Integer), "postgresql")
LOGPROBS = sa.LargeBinary().with_variant(sa.ARRAY(sa.REAL), "postgresql")


def create_tables() -> None:
    create_runs()
    create_streams()
    create_blobs()
    create_attachments()


def create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_key", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.String(36), nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger),
        sa.Column("started_at_us", sa.BigInteger, nullable=False),
        sa.Column("updated_at_us", sa.BigInteger, nullable=False),
        sa.Column("turns", sa.Integer, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("reused_tokens", sa.BigInteger, nullable=False),
        sa.Column("generated_tokens", sa.BigInteger, nullable=False),
        sa.Column("parent_run_id", sa.String(36)),
        sa.Column("forked_at_turn", sa.Integer),
        # The key of an erased run is never given to another.
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tombstones",
        sa.Column("run_id", sa.String(36), primary_key=True),
        sa.Column("erased_at_us", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("last_seal", sa.String(80)),
        sqlite_with_rowid=False,
    )


def create_streams() -> None:
    op.create_table(
        "events",
        sa.Column("event_key", KEY, primary_key=True, autoincrement=False),
        sa.Column("after_us", sa.BigInteger, nullable=False),
        sa.Column("turn", sa.Integer),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("version", sa.SmallInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("seal", sa.String(80)),
    )
    op.create_table(
        "tokens",
        sa.Column("event_key", KEY, primary_key=True, autoincrement=False),
        sa.Column("after_us", sa.BigInteger, nullable=False),
        sa.Column("version", sa.SmallInteger, nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("token_id", sa.Integer, nullable=False),
        sa.Column("logprob_f32", FLOAT32, nullable=False),
        sa.Column("logprob_processed_f32", FLOAT32, nullable=False),
        sa.Column("entropy_f16", FLOAT16, nullable=False),
        sa.Column("top_gap_f16", FLOAT16, nullable=False),
        sa.Column("duration_us", sa.BigInteger, nullable=False),
        sa.Column("top_ids", IDS),
        sa.Column("top_logprobs_f16", LOGPROBS),
    )


def create_blobs() -> None:
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )


def create_attachments() -> None:
    op.create_table(
        "verdicts",
        *attachment_key(),
        sa.Column("replay", sa.String(80), nullable=False),
        sa.Column("verdict", sa.String(80), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("floor_version", sa.Text),
        sa.Column("turns", sa.Integer),
        sa.Column("tokens", sa.BigInteger),
        sa.Column("mismatches", sa.BigInteger),
        sa.Column("near_ties", sa.BigInteger),
        sa.Column("logprob_difference_max", sa.Double),
        sa.Column("margin_max", sa.Double),
        sa.Column("duration_us", sa.BigInteger),
        sa.Column("report", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "floors",
        *attachment_key(),
        sa.Column("version", sa.String(80), nullable=False),
        sa.Column("floor", sa.LargeBinary, nullable=False),
    )


def attachment_key() -> list[sa.Column[Any]]:
    return [
        sa.Column("run_key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at_us", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sha256", sa.String(64), primary_key=True),
    ]
