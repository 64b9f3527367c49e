"""Alembic's environment and versions; run by the store, found by path."""
