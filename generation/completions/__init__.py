"""Chat completions: conversations whose messages a client sends whole each time."""
