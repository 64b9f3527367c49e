"""Create the store.

A run is a stream of events. Triggers keep it append-only, views decode it for SQL.
"""

from alembic import op

from tokentape.migrations.schema_0001.tables import create_tables
from tokentape.migrations.schema_0001.triggers import create_triggers
from tokentape.migrations.schema_0001.views import create_views

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_tables()
    create_triggers(op.get_bind())
    create_views(op.get_bind())


def downgrade() -> None:
    raise NotImplementedError("0001 is the first schema: go back to a backup")
