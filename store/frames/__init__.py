"""Recordings as pandas frames."""
