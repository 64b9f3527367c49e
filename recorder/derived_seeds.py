"""The seeds of turns and of their rounds, derived from the seed of a run."""

import hashlib


def turn_seed(run_seed: int, turn: int) -> int:
    """Return the seed of a turn, derived from that of its run."""
    digest = hashlib.sha256(f"tokentape turn {turn} of run {run_seed}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def round_seed(seed: int, first_step: int) -> int:
    """Return the seed of a round from that of the round before it.

    `first_step` is the number of the turn's tokens before this round.
    """
    digest = hashlib.sha256(f"tokentape part from {first_step} of {seed}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
