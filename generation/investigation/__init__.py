"""A recorded conversation with tools: turns, resuming, forking."""
