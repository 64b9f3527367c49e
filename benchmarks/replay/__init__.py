"""Time of replaying a recording, and the faults that a replay finds."""
