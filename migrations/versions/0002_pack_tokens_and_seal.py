"""Pack tokens, seal turns, allow a run to be erased.

Rows of `events` and `tokens` are laid out by one key, the run's in the upper bits and `seq` in the
lower 28, and their times count from the start of the run. Floats of tokens become float32 and half
precision, times microseconds; what is older loses what is below that. Events get the turn that they
belong to and, from now on, seals; what was recorded before has none.

All triggers are made anew, because a batch alter drops them. They keep the streams whole: an event
comes behind the one before it, in whichever of the two tables, and only what has a tombstone can be
deleted.
"""

import json
import struct

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

SEQ_BITS = 28
STREAMS = ("events", "tokens")
PROMPT_KINDS = ("SystemPromptCached", "MessageAdded", "ToolCalled", "ToolReturned")

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
FLOAT32 = sa.Integer().with_variant(sa.REAL, "postgresql")
FLOAT16 = sa.SmallInteger().with_variant(sa.REAL, "postgresql")
IDS = sa.LargeBinary().with_variant(sa.ARRAY(sa.Integer), "postgresql")
LOGPROBS = sa.LargeBinary().with_variant(sa.ARRAY(sa.REAL), "postgresql")


def upgrade() -> None:
    connection = op.get_bind()
    for table in STREAMS:
        op.rename_table(table, f"{table}_0001")
    create_streams()
    op.create_table(
        "tombstones",
        sa.Column("run_id", sa.String(36), primary_key=True),
        sa.Column("erased_at_us", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("last_seal", sa.String(80)),
        sqlite_with_rowid=False,
    )
    if connection.dialect.name == "sqlite":
        # No other database was ever at 0001: there the tables are still blank.
        copy_events(connection)
        copy_tokens(connection)
        with op.batch_alter_table(
            "blobs", recreate="always", table_kwargs={"sqlite_with_rowid": False}
        ):
            pass
        # The key of a run that was erased is never given to another.
        with op.batch_alter_table(
            "runs", recreate="always", table_kwargs={"sqlite_autoincrement": True}
        ):
            pass
    for table in STREAMS:
        op.drop_table(f"{table}_0001")
    create_triggers(connection.dialect.name)


def downgrade() -> None:
    raise NotImplementedError("what was packed stays packed: go back to the backup")


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
        sa.Column("candidate_logprobs_f16", LOGPROBS),
    )


def copy_events(connection: sa.Connection) -> None:
    insert = sa.text(
        "INSERT INTO events VALUES (:key, :after_us, :turn, :kind, :version, :body, NULL)"
    )
    started, finished = {}, {}
    query = (
        "SELECT run_key, seq, at_us, kind, version, body, started_at_us FROM events_0001 "
        "JOIN runs USING (run_key) ORDER BY run_key, seq"
    )
    for row in connection.execute(sa.text(query)).fetchall():
        turn = None
        if row.kind not in ("RunStarted", "RunFinished", "RunFailed"):
            last, is_over = started.get(row.run_key, 0), finished.get(row.run_key, True)
            coming = last + 1 if is_over or row.kind in PROMPT_KINDS else last
            turn = json.loads(row.body).get("turn", coming)
        if row.kind == "TurnStarted":
            started[row.run_key], finished[row.run_key] = turn, False
        elif row.kind == "TurnFinished":
            finished[row.run_key] = True
        kept = {name: getattr(row, name) for name in ("kind", "version", "body")}
        connection.execute(insert, place_of(row) | kept | {"turn": turn})


def place_of(row: sa.Row) -> dict[str, int]:
    return {
        "key": (row.run_key << SEQ_BITS) | row.seq,
        "after_us": row.at_us - row.started_at_us,
    }


def copy_tokens(connection: sa.Connection) -> None:
    names = (
        "key, after_us, version, turn, step, position, token_id, logprob, processed, entropy, "
        "top_gap, duration_us, ids, logprobs"
    )
    marks = ", ".join(f":{name}" for name in names.split(", "))
    insert = sa.text(f"INSERT INTO tokens VALUES ({marks})")
    query = "SELECT tokens_0001.*, started_at_us FROM tokens_0001 JOIN runs USING (run_key)"
    for row in connection.execute(sa.text(query)).fetchall():
        plain = {
            name: getattr(row, name) for name in ("version", "turn", "step", "position", "token_id")
        }
        duration = {"duration_us": row.duration_us}
        connection.execute(insert, place_of(row) | plain | duration | packed(row))


def packed(row: sa.Row) -> dict[str, object]:
    floats = struct.pack("<ff", row.logprob, row.logprob_processed)
    halves = struct.pack("<ee", half(row.entropy), half(row.top_gap))
    logprob, processed = struct.unpack("<ii", floats)
    entropy, top_gap = struct.unpack("<hh", halves)
    ids, logprobs = candidates_of(row)
    width = max(1, (max(ids, default=0).bit_length() + 7) // 8)
    return {
        "logprob": logprob,
        "processed": processed,
        "entropy": entropy,
        "top_gap": top_gap,
        "ids": b"".join(each.to_bytes(width, "little") for each in ids) or None,
        "logprobs": struct.pack(f"<{len(logprobs)}e", *logprobs) or None,
    }


def candidates_of(row: sa.Row) -> tuple[tuple[int, ...], tuple[float, ...]]:
    ids, logprobs = row.top_ids or b"", row.top_logprobs or b""
    return (
        struct.unpack(f"<{len(ids) // 4}i", ids),
        tuple(map(half, struct.unpack(f"<{len(logprobs) // 4}f", logprobs))),
    )


def half(number: float) -> float:
    """Half precision holds numbers up to this; a candidate may have had minus infinity."""
    return max(-65504.0, min(65504.0, number))


RUN_KEY = "{row}.event_key >> 28"
ERASED = (
    "EXISTS (SELECT 1 FROM tombstones JOIN runs ON runs.run_id = tombstones.run_id "
    f"WHERE runs.run_key = ({RUN_KEY}))"
)
NOT_NEXT = (
    "EXISTS (SELECT 1 FROM {other} WHERE event_key = NEW.event_key) OR CASE "
    "WHEN (NEW.event_key & 268435455) = 0 "
    "THEN NOT EXISTS (SELECT 1 FROM runs WHERE run_key = (NEW.event_key >> 28)) "
    "ELSE NOT EXISTS (SELECT 1 FROM tokens WHERE event_key = NEW.event_key - 1) "
    "AND NOT EXISTS (SELECT 1 FROM events WHERE event_key = NEW.event_key - 1) END"
)
REFERRED = (
    "EXISTS (SELECT 1 FROM events WHERE kind = 'ToolReturned' AND {position}(body, OLD.sha256) > 0)"
)
MOVED = (
    "NEW.run_key <> OLD.run_key OR NEW.run_id <> OLD.run_id "
    "OR NEW.started_at_us <> OLD.started_at_us"
)


def rules(position: str) -> list[tuple[str, str, str, str, str]]:
    """Trigger, table, verb, when it refuses, and what it says."""
    found = []
    for table, other in (("events", "tokens"), ("tokens", "events")):
        said = f"{table} is append-only"
        found += [
            (f"{table}_refuse_update", table, "UPDATE", "", said),
            (f"{table}_refuse_delete", table, "DELETE", f"NOT {ERASED.format(row='OLD')}", said),
            (
                f"{table}_refuse_gap",
                table,
                "INSERT",
                NOT_NEXT.format(other=other),
                "not the next event of its run",
            ),
        ]
    referred = REFERRED.format(position=position)
    erased_run = "NOT EXISTS (SELECT 1 FROM tombstones WHERE run_id = OLD.run_id)"
    return [
        *found,
        ("blobs_refuse_update", "blobs", "UPDATE", "", "blobs is append-only"),
        ("blobs_refuse_delete", "blobs", "DELETE", referred, "blobs is append-only"),
        ("runs_refuse_delete", "runs", "DELETE", erased_run, "a run is erased, not deleted"),
        ("runs_refuse_move", "runs", "UPDATE", MOVED, "a run keeps its id and its start"),
        ("tombstones_refuse_update", "tombstones", "UPDATE", "", "tombstones stay"),
        ("tombstones_refuse_delete", "tombstones", "DELETE", "", "tombstones stay"),
    ]


def create_triggers(dialect: str) -> None:
    if dialect == "sqlite":
        for name, table, verb, when, said in rules("instr"):
            condition = f"WHEN {when} " if when else ""
            op.execute(
                f"CREATE TRIGGER {name} BEFORE {verb} ON {table} {condition}"
                f"BEGIN SELECT RAISE(ABORT, '{said}'); END"
            )
        return
    for name, table, verb, when, said in rules("strpos"):
        # Two sessions do not see each other's rows: those that write one run take turns.
        lock = "PERFORM pg_advisory_xact_lock(NEW.event_key >> 28);" if name.endswith("gap") else ""
        result = "OLD" if verb == "DELETE" else "NEW"
        op.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {lock} "
            f"IF ({when or 'true'}) THEN RAISE EXCEPTION '{said}' USING ERRCODE = "
            f"'integrity_constraint_violation'; END IF; RETURN {result}; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {verb} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
        )
    for table in (*STREAMS, "blobs", "tombstones"):
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} "
            f"EXECUTE FUNCTION {table}_refuse_update()"
        )
