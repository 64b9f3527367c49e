"""Time and bytes of storing a recording, compared with other recorders."""
