"""Keep verdicts of replays and noise floors beside the runs.

They are no events, and as append-only: a row is never changed, and deleted only with its run. What
SQL is likely to ask of a report stands beside it in columns, because the report is compressed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = ("verdicts", "floors")
ERASED = (
    "EXISTS (SELECT 1 FROM tombstones JOIN runs ON runs.run_id = tombstones.run_id "
    "WHERE runs.run_key = OLD.run_key)"
)
ORPHAN = "NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_key = NEW.run_key)"
INSTANTS = {
    "sqlite": (
        "strftime('%Y-%m-%dT%H:%M:%S', at_us / 1000000, 'unixepoch') "
        "|| printf('.%06dZ', at_us % 1000000)"
    ),
    "postgresql": "timestamptz 'epoch' + at_us * interval '1 microsecond'",
}


def upgrade() -> None:
    op.create_table(
        "verdicts",
        *key_columns(),
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
        *key_columns(),
        sa.Column("version", sa.String(80), nullable=False),
        sa.Column("floor", sa.LargeBinary, nullable=False),
    )
    dialect = op.get_bind().dialect.name
    create_triggers(dialect)
    op.get_bind().exec_driver_sql(
        f"CREATE VIEW verdicts_df AS SELECT run_id, {INSTANTS[dialect]} AS at, replay, verdict, "
        "reason, verdicts.model, floor_version, verdicts.turns, tokens, mismatches, near_ties, "
        "logprob_difference_max, margin_max, duration_us "
        "FROM runs JOIN verdicts ON verdicts.run_key = runs.run_key"
    )


def downgrade() -> None:
    connection = op.get_bind()
    for table in TABLES:
        if connection.execute(sa.text(f"SELECT 1 FROM {table} LIMIT 1")).first() is not None:
            raise NotImplementedError(f"{table} would be lost: go back to the backup")
    op.execute("DROP VIEW verdicts_df")
    for table in TABLES:
        op.drop_table(table)
    if connection.dialect.name != "sqlite":
        for name, *_ in rules():
            op.execute(f"DROP FUNCTION {name}()")


def key_columns() -> list[sa.Column]:
    return [
        sa.Column("run_key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at_us", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sha256", sa.String(64), primary_key=True),
    ]


def rules() -> list[tuple[str, str, str, str, str]]:
    """Trigger, table, verb, when it refuses, and what it says."""
    return [
        rule
        for table in TABLES
        for rule in (
            (f"{table}_refuse_update", table, "UPDATE", "", f"{table} is append-only"),
            (
                f"{table}_refuse_delete",
                table,
                "DELETE",
                f"NOT {ERASED}",
                f"{table} is append-only",
            ),
            (f"{table}_refuse_orphan", table, "INSERT", ORPHAN, "there is no such run"),
        )
    ]


def create_triggers(dialect: str) -> None:
    for name, table, verb, when, said in rules():
        if dialect == "sqlite":
            condition = f"WHEN {when} " if when else ""
            op.execute(
                f"CREATE TRIGGER {name} BEFORE {verb} ON {table} {condition}"
                f"BEGIN SELECT RAISE(ABORT, '{said}'); END"
            )
            continue
        # Who erases the run has the same lock: nothing is kept beside a run that is going.
        lock = "PERFORM pg_advisory_xact_lock(NEW.run_key);" if verb == "INSERT" else ""
        result = "OLD" if verb == "DELETE" else "NEW"
        op.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {lock} "
            f"IF ({when or 'true'}) THEN RAISE EXCEPTION '{said}' USING ERRCODE = "
            f"'integrity_constraint_violation'; END IF; RETURN {result}; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {verb} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
        )
        if verb == "UPDATE":
            op.execute(
                f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} "
                f"EXECUTE FUNCTION {name}()"
            )
