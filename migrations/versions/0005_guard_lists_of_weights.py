"""Guard lists of weights as what tools returned is guarded.

A run that has begun may name one, under the sum of its weights: the database does not delete it
while there is such a run.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

REFUSED = "EXISTS (SELECT 1 FROM events WHERE {kinds} AND {position}(body, OLD.sha256) > 0)"
BEFORE = "kind = 'ToolReturned'"
SINCE = "kind IN ('RunStarted', 'ToolReturned')"
SAID = "blobs is append-only"


def upgrade() -> None:
    replace_trigger(SINCE)


def downgrade() -> None:
    replace_trigger(BEFORE)


def replace_trigger(kinds: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        refused = REFUSED.format(kinds=kinds, position="instr")
        op.execute("DROP TRIGGER blobs_refuse_delete")
        op.execute(
            f"CREATE TRIGGER blobs_refuse_delete BEFORE DELETE ON blobs WHEN {refused} "
            f"BEGIN SELECT RAISE(ABORT, '{SAID}'); END"
        )
        return
    refused = REFUSED.format(kinds=kinds, position="strpos")
    op.execute(
        "CREATE OR REPLACE FUNCTION blobs_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN IF ({refused}) THEN RAISE EXCEPTION '{SAID}' USING ERRCODE = "
        "'integrity_constraint_violation'; END IF; RETURN OLD; END $$"
    )
