"""Add labels: the tags and the note of a run, also in the view of runs."""

import sqlalchemy as sa
from alembic import op

from tokentape.migrations.schema_0001.dialects import Postgres, Sqlite
from tokentape.migrations.schema_0001.tables import attachment_key
from tokentape.migrations.schema_0001.triggers import (
    ERASED,
    Rule,
    append_only,
    create_in_postgresql,
    create_in_sqlite,
)
from tokentape.migrations.schema_0001.views import runs

revision = "0002"
down_revision = "0001"

# The last label about a tag decides whether the run has it.
TAGS = (
    "SELECT text FROM run_labels AS given WHERE given.run_key = runs.run_key AND label = 'tag' "
    "AND NOT EXISTS (SELECT 1 FROM run_labels AS later WHERE later.run_key = given.run_key "
    "AND later.text = given.text AND later.label <> 'note' AND (later.at_us > given.at_us "
    "OR (later.at_us = given.at_us AND later.sha256 > given.sha256)))"
)
NOTE = (
    "SELECT text FROM run_labels WHERE run_labels.run_key = runs.run_key AND label = 'note' "
    "ORDER BY at_us DESC, sha256 DESC LIMIT 1"
)


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.create_table(
        "run_labels",
        *attachment_key(),
        sa.Column("label", sa.String(80), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    for rule in rules():
        (create_in_sqlite if is_sqlite else create_in_postgresql)(rule)
    if not is_sqlite:
        op.execute(
            "CREATE TRIGGER run_labels_refuse_truncate BEFORE TRUNCATE ON run_labels "
            "EXECUTE FUNCTION run_labels_refuse_update()"
        )
    create_view(is_sqlite)


def rules() -> list[Rule]:
    """Return the triggers of `run_labels`, the same as those of verdicts and floors."""
    return [
        append_only("run_labels", "UPDATE"),
        append_only("run_labels", "DELETE", f"NOT {ERASED.format(run_key='OLD.run_key')}"),
        Rule(
            name="run_labels_refuse_orphan",
            table="run_labels",
            verb="INSERT",
            message="there is no such run",
            when="NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_key = NEW.run_key)",
            lock="NEW.run_key",
        ),
    ]


def create_view(is_sqlite: bool) -> None:
    """Create `runs_df` again, with the columns `tags` and `note`."""
    if is_sqlite:
        ordered = f"SELECT text FROM ({TAGS}) ORDER BY text"
        joined = f"SELECT group_concat(text, ', ') FROM ({ordered})"
    else:
        joined = (
            f"""SELECT string_agg(text, ', ' ORDER BY text COLLATE "C") FROM ({TAGS}) AS run_tags"""
        )
    before, _, after = runs(Sqlite() if is_sqlite else Postgres()).rpartition(" FROM runs")
    op.execute("DROP VIEW runs_df")
    op.execute(
        f"CREATE VIEW runs_df AS {before}, coalesce(({joined}), '') AS tags, "
        f"coalesce(({NOTE}), '') AS note FROM runs{after}"
    )


def downgrade() -> None:
    raise NotImplementedError("go back to the backup that the upgrade made")
