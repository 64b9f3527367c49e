"""The live store in SQLite or PostgreSQL, written event by event."""
