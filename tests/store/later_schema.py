"""A made-up revision after today's, to test how a store is upgraded."""

from pathlib import Path

from tokentape.store.live import schema

LATER = "9999"
ADD_NOTES = """
    op.create_table("notes", sa.Column("note", sa.Text))
"""
LOSE_TRIGGERS = """
    with op.batch_alter_table("blobs", recreate="always"):
        pass
"""
_REVISION = '''"""Add notes."""

import sqlalchemy as sa
from alembic import op

revision = "{later}"
down_revision = "{head}"


def upgrade() -> None:{body}
'''


def add_later_schema(folder: Path, body: str = ADD_NOTES) -> str:
    """Make this process know a newer schema, and return the one before it."""
    before = schema.head()
    folder.mkdir()
    written = _REVISION.format(later=LATER, head=before, body=body)
    (folder / f"{LATER}_add_notes.py").write_text(written, encoding="utf-8")
    schema.VERSION_FOLDERS = (*schema.VERSION_FOLDERS, folder)
    schema._scripts.cache_clear()
    return before


def remove_later_schema() -> None:
    schema.VERSION_FOLDERS = schema.VERSION_FOLDERS[:1]
    schema._scripts.cache_clear()
