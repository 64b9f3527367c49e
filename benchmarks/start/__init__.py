"""How long commands take that need no model, and how long loading the demo model takes."""
