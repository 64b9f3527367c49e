"""The live store: SQLite or PostgreSQL, written an event at a time."""
