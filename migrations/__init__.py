"""Alembic environment and revisions of the live store's schema."""
