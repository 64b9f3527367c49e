"""Data that a replay returns: verdicts, causes, reports, and its errors."""
