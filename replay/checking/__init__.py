"""Check recorded tokens against a model, turn by turn."""
