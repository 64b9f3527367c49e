"""Say in `runs` what a run was forked from, and in `turns_df` which part of a turn a row is.

A turn in which the model called tools has a row for each part: `first_step` is how many tokens were
sampled in those before. What tools gave counts for the part whose prompt it is in. Tensors of
interventions are guarded as payloads of tools are.
"""

from importlib import import_module
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# The dialects and the parts of queries that views have always been made of.
views: Any = import_module("tokentape.migrations.versions.0003_add_views")
lists: Any = import_module("tokentape.migrations.versions.0005_guard_lists_of_weights")

GUARDED = "kind IN ('RunStarted', 'ToolReturned', 'InterventionRequested', 'InterventionApplied')"


def upgrade() -> None:
    op.add_column("runs", sa.Column("parent_run_id", sa.String(36)))
    op.add_column("runs", sa.Column("forked_at_turn", sa.Integer))
    connection = op.get_bind()
    dialect = dialect_of(connection.dialect.name)
    replace_views(runs(dialect), turns(dialect))
    lists.replace_trigger(GUARDED)


def downgrade() -> None:
    connection = op.get_bind()
    forked = "SELECT 1 FROM runs WHERE parent_run_id IS NOT NULL LIMIT 1"
    if connection.execute(sa.text(forked)).first() is not None:
        raise NotImplementedError("forks would lose their parents: go back to the backup")
    lists.replace_trigger(lists.SINCE)
    dialect = dialect_of(connection.dialect.name)
    replace_views(views.runs(dialect), views.turns(dialect))
    for column in ("parent_run_id", "forked_at_turn"):
        op.execute(sa.text(f"ALTER TABLE runs DROP COLUMN {column}"))


def dialect_of(name: str) -> Any:
    return views.Sqlite() if name == "sqlite" else views.Postgres()


def replace_views(runs_query: str, turns_query: str) -> None:
    connection = op.get_bind()
    for name, query in (("runs_df", runs_query), ("turns_df", turns_query)):
        op.execute(sa.text(f"DROP VIEW {name}"))
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")


def runs(dialect: Any) -> str:
    query: str = views.runs(dialect)
    return query.replace(" FROM runs", ", parent_run_id, forked_at_turn FROM runs")


def turns(dialect: Any) -> str:
    """As it was, with `first_step`, and with totals over what came since the part before."""
    query: str = views.turns(dialect)
    first_step = f"coalesce({dialect.field('started', 'first_step', 'integer')}, 0) AS first_step"
    begun = "SELECT run_id, started.turn, "
    query = query.replace(begun, f"{begun}{first_step}, ")
    key = f"runs.run_key{dialect.big}"
    later = (
        "coalesce((SELECT min(other.event_key) FROM events AS other WHERE other.kind = "
        "'TurnStarted' AND other.event_key > started.event_key "
        f"AND {views.of_run(dialect, 'other')}), ({key} + 1) << 28)"
    )
    assert query.count(later) == 3, "the view is not the one that was there"
    return query.replace(later, "started.event_key")
