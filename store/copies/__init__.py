"""Export of runs to JSON Lines and CSV, and import from files."""
