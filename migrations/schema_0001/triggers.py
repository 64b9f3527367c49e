"""The triggers of schema 0001: a recording is only ever appended to, or erased as a whole."""

from dataclasses import dataclass

from alembic import op
from sqlalchemy import Connection

NO_TRUNCATE = ("events", "tokens", "blobs", "tombstones", "verdicts", "floors")
"""Tables that PostgreSQL must not truncate. SQLite has no such statement."""

ERASED = (
    "EXISTS (SELECT 1 FROM tombstones JOIN runs ON runs.run_id = tombstones.run_id "
    "WHERE runs.run_key = {run_key})"
)
IN_NO_STREAM = (
    "NOT EXISTS (SELECT 1 FROM tokens WHERE event_key = {event_key}) "
    "AND NOT EXISTS (SELECT 1 FROM events WHERE event_key = {event_key})"
)
NOT_NEXT = (
    "EXISTS (SELECT 1 FROM {other} WHERE event_key = NEW.event_key) OR CASE "
    "WHEN (NEW.event_key & 268435455) = 0 "
    "THEN NOT EXISTS (SELECT 1 FROM runs WHERE run_key = (NEW.event_key >> 28)) "
    f"ELSE {IN_NO_STREAM.format(event_key='NEW.event_key - 1')} END"
)
# The body of these events names the blob by its sha256.
NAMED_BY_AN_EVENT = (
    "EXISTS (SELECT 1 FROM events WHERE kind IN ('RunStarted', 'ToolReturned', "
    "'InterventionRequested', 'InterventionApplied') AND {position}(body, OLD.sha256) > 0)"
)
MOVED = (
    "NEW.run_key <> OLD.run_key OR NEW.run_id <> OLD.run_id "
    "OR NEW.started_at_us <> OLD.started_at_us"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A trigger that refuses a statement.

    `when` is the SQL condition of the refusal, empty for always. `lock` is the key of the run
    that a PostgreSQL session locks first, since it does not see rows that another has not
    committed.
    """

    name: str
    table: str
    verb: str
    message: str
    when: str = ""
    lock: str = ""


def rules(position: str) -> list[Rule]:
    """Return all rules; `position` is the database's function for the place of a substring."""
    return [*stream_rules(), *attachment_rules(), *other_rules(position)]


def stream_rules() -> list[Rule]:
    found = []
    for table, other in (("events", "tokens"), ("tokens", "events")):
        erased = ERASED.format(run_key="(OLD.event_key >> 28)")
        found += [
            append_only(table, "UPDATE"),
            append_only(table, "DELETE", f"NOT {erased}"),
            Rule(
                name=f"{table}_refuse_gap",
                table=table,
                verb="INSERT",
                message="not the next event of its run",
                when=NOT_NEXT.format(other=other),
                lock="NEW.event_key >> 28",
            ),
        ]
    return found


def attachment_rules() -> list[Rule]:
    found = []
    for table in ("verdicts", "floors"):
        found += [
            append_only(table, "UPDATE"),
            append_only(table, "DELETE", f"NOT {ERASED.format(run_key='OLD.run_key')}"),
            Rule(
                name=f"{table}_refuse_orphan",
                table=table,
                verb="INSERT",
                message="there is no such run",
                when="NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_key = NEW.run_key)",
                # The erasure of the run takes the same lock.
                lock="NEW.run_key",
            ),
        ]
    return found


def other_rules(position: str) -> list[Rule]:
    return [
        append_only("blobs", "UPDATE"),
        append_only("blobs", "DELETE", NAMED_BY_AN_EVENT.format(position=position)),
        Rule(
            name="runs_refuse_delete",
            table="runs",
            verb="DELETE",
            message="a run is erased, not deleted",
            when="NOT EXISTS (SELECT 1 FROM tombstones WHERE run_id = OLD.run_id)",
        ),
        Rule(
            name="runs_refuse_move",
            table="runs",
            verb="UPDATE",
            message="a run keeps its id and its start",
            when=MOVED,
        ),
        *(append_only("tombstones", verb) for verb in ("UPDATE", "DELETE")),
    ]


def append_only(table: str, verb: str, when: str = "") -> Rule:
    return Rule(
        name=f"{table}_refuse_{verb.lower()}",
        table=table,
        verb=verb,
        message=f"{table} is append-only",
        when=when,
    )


def create_triggers(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        for rule in rules(position="instr"):
            create_in_sqlite(rule)
        return
    for rule in rules(position="strpos"):
        create_in_postgresql(rule)
    for table in NO_TRUNCATE:
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} "
            f"EXECUTE FUNCTION {table}_refuse_update()"
        )


def create_in_sqlite(rule: Rule) -> None:
    condition = f"WHEN {rule.when} " if rule.when else ""
    op.execute(
        f"CREATE TRIGGER {rule.name} BEFORE {rule.verb} ON {rule.table} {condition}"
        f"BEGIN SELECT RAISE(ABORT, '{rule.message}'); END"
    )


def create_in_postgresql(rule: Rule) -> None:
    lock = f"PERFORM pg_advisory_xact_lock({rule.lock});" if rule.lock else ""
    result = "OLD" if rule.verb == "DELETE" else "NEW"
    op.execute(
        f"CREATE FUNCTION {rule.name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {lock} "
        f"IF ({rule.when or 'true'}) THEN RAISE EXCEPTION '{rule.message}' USING ERRCODE = "
        f"'integrity_constraint_violation'; END IF; RETURN {result}; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {rule.name} BEFORE {rule.verb} ON {rule.table} FOR EACH ROW "
        f"EXECUTE FUNCTION {rule.name}()"
    )
