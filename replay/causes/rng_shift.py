"""Search for the random stream that leads to a turn's recorded end state."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tokentape.generation.engine.sampling import generator_sha256
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.rng_stream import NoiseStream

# Distances tried from the recorded seed, and from the recorded number of draws.
_OFFSETS = (-1, 1, -2, 2, -3, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamShift:
    """The distance from the recorded seed and draws to a stream with the recorded end state."""

    seed_offset: int = 0
    draws: int = 0
    """Draws of whole tokens: each is one exponential for every token of the vocabulary."""
    exponentials: int = 0
    """Single exponentials."""


def find_shift(turn: Turn, vocabulary: int, device: torch.device) -> StreamShift | None:
    """Return the nearest stream with the recorded end state, or None if no near one has it.

    The recorded seed and draws are tried first; their shift is `StreamShift()`. Greedy and cut-off
    turns have no end state: return None.
    """
    if turn.started.seed is None or turn.finished is None:
        return None
    draws = turn.continued_tokens + len(turn.tokens)
    for shift, sha256 in _end_states(turn.started.seed, draws, vocabulary, device):
        if sha256 == turn.finished.generator_sha256:
            return shift
    return None


def _end_states(
    seed: int, rows: int, vocabulary: int, device: torch.device
) -> Iterator[tuple[StreamShift, str]]:
    def after(seed: int, exponentials: int) -> str:
        stream = NoiseStream(seed, vocabulary, device)
        stream.skip(exponentials)
        return generator_sha256(stream.generator)

    everything = rows * vocabulary
    yield StreamShift(), after(seed, everything)
    for draws in _OFFSETS:
        if rows + draws >= 0:
            yield StreamShift(draws=draws), after(seed, everything + draws * vocabulary)
    for offset in _OFFSETS:
        if -(2**63) <= seed + offset < 2**63:
            yield StreamShift(seed_offset=offset), after(seed + offset, everything)
    for single in _OFFSETS:
        yield StreamShift(exponentials=single), after(seed, everything + single)
