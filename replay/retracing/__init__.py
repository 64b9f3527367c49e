"""Forwards along the schedule of a recording, and their comparison bit for bit."""
