"""Cost and benefit of tokentape, measured side by side with other software in the same process."""
