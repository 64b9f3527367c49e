"""Checks of recorded tokens against a model, turn by turn."""
