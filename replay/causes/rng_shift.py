"""Which random stream a turn was really drawn from, where it is not that of its seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tokentape.generation.engine.sampling import generator_sha256
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.rng_stream import NoiseStream

# Seeds next to the recorded one, and draws that were left out or made once more.
_OFFSETS = (-1, 1, -2, 2, -3, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamShift:
    """The stream that leads to the recorded end state: of a seed so far off, or so many draws.

    A draw is one token's, as many exponentials as there are tokens in the vocabulary;
    `exponentials` counts single ones.
    """

    seed_offset: int = 0
    draws: int = 0
    exponentials: int = 0


def find_shift(turn: Turn, vocabulary: int, device: torch.device) -> StreamShift | None:
    """The nearest stream with the recorded end state; None where none near is, or none was.

    That of the recorded seed comes first: its shift is nothing.
    """
    if turn.started.seed is None or turn.finished is None:
        return None
    for shift, sha256 in _end_states(turn.started.seed, len(turn.tokens), vocabulary, device):
        if sha256 == turn.finished.generator_sha256:
            return shift
    return None


def _end_states(
    seed: int, rows: int, vocabulary: int, device: torch.device
) -> Iterator[tuple[StreamShift, str]]:
    def after(seed: int, draws: int) -> str:
        stream = NoiseStream(seed, vocabulary, device)
        stream.skip(draws)
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
