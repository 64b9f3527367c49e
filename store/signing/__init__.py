"""Signatures over the last seal of a run, by SSH keys."""
