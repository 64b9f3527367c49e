"""Create runs, events, tokens and blobs.

What was recorded stays as it was: triggers refuse to change or delete a row of events, tokens or
blobs. `runs` is the one table whose rows change; it can be rebuilt from the events.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

APPEND_ONLY = ("events", "tokens", "blobs")


def upgrade() -> None:
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
    )
    op.create_table(
        "events",
        sa.Column("run_key", sa.Integer, sa.ForeignKey("runs.run_key"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("version", sa.SmallInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tokens",
        sa.Column("run_key", sa.Integer, sa.ForeignKey("runs.run_key"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("version", sa.SmallInteger, nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("token_id", sa.Integer, nullable=False),
        sa.Column("logprob", sa.Double, nullable=False),
        sa.Column("logprob_processed", sa.Double, nullable=False),
        sa.Column("entropy", sa.Double, nullable=False),
        sa.Column("top_gap", sa.Double, nullable=False),
        sa.Column("duration_us", sa.BigInteger, nullable=False),
        sa.Column("top_ids", sa.LargeBinary),
        sa.Column("top_logprobs", sa.LargeBinary),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    if op.get_bind().dialect.name != "sqlite":
        return
    for table in APPEND_ONLY:
        for verb in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER {table}_refuse_{verb} BEFORE {verb.upper()} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )


def downgrade() -> None:
    raise NotImplementedError("there is nothing before the first schema")
