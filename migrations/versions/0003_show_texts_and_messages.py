"""Show texts of tokens, messages, interventions and activations.

Views for SQL; nothing that is stored changes.
"""

from alembic import op

from tokentape.migrations.frames_0003.views import create_views

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    create_views(op.get_bind())


def downgrade() -> None:
    raise NotImplementedError("a store is not downgraded: go back to a backup")
