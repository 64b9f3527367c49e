"""The random stream of a turn, drawn again for many tokens at once.

`torch.multinomial` divides the probabilities by exponentials, one for each token of the vocabulary,
and picks the largest. On a CPU an exponential is -log1p(-u), and u is the lower 53 bits of one
64-bit draw (ATen/native/cpu/DistributionTemplates.h and ATen/native/TransformationHelper.h). So the
draws of all rows can be made first, and the logarithm is taken only where a token is still left.
"""

from functools import cache

import torch

_BITS_53 = 2**53 - 1
_SCALE = 2.0**-53
_INT64_MIN = -(2**63)
# Above this share of tokens left, torch's own exponentials are quicker than picking places.
_SHARE_LEFT = 0.25


class NoiseStream:
    """Exponentials as `multinomial` draws them from the seed of a turn, row after row."""

    def __init__(self, seed: int, vocabulary: int, device: torch.device) -> None:
        """Raises RuntimeError for a seed that no generator takes."""
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self._vocabulary = vocabulary
        self._device = device

    def again(self) -> "NoiseStream":
        """The same stream from its beginning."""
        return NoiseStream(self.generator.initial_seed(), self._vocabulary, self._device)

    def skip(self, draws: int) -> None:
        """Leave out so many exponentials: a token takes as many as there are in the vocabulary."""
        while draws > 0:
            count = min(draws, self._vocabulary)
            if self._device.type == "cpu" and is_known_stream():
                self._words(count)
            else:
                self._exponentials(count)
            draws -= count

    def exponentials(self, kept: torch.Tensor) -> torch.Tensor:
        """The next exponentials, float32 of shape (rows, vocab).

        Those outside of the mask `kept` have no meaning.
        """
        if self._device.type != "cpu":
            # Such a generator gives each launch its own numbers: a row is a launch.
            rows = [self._exponentials(self._vocabulary) for _ in range(len(kept))]
            return torch.stack(rows) if rows else torch.empty(kept.shape, device=self._device)
        places = kept.nonzero(as_tuple=True)
        if len(places[0]) > _SHARE_LEFT * kept.numel() or not is_known_stream():
            return self._exponentials(kept.numel()).view(kept.shape)
        words = self._words(kept.numel()).view(kept.shape)
        drawn = torch.ones(kept.shape)
        drawn[places] = _to_exponentials(words[places])
        return drawn

    def _words(self, count: int) -> torch.Tensor:
        words = torch.empty(count, dtype=torch.int64)
        return words.random_(_INT64_MIN, None, generator=self.generator)

    def _exponentials(self, count: int) -> torch.Tensor:
        empty = torch.empty(count, device=self._device)
        return empty.exponential_(1.0, generator=self.generator)


def _to_exponentials(words: torch.Tensor) -> torch.Tensor:
    uniform = (words & _BITS_53).double() * _SCALE
    return (-torch.log1p(-uniform)).float()


@cache
def is_known_stream() -> bool:
    """Whether this torch makes exponentials of its draws in the way that is known here."""
    theirs, ours = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    exponentials = torch.empty(4096).exponential_(1.0, generator=theirs)
    words = torch.empty(4096, dtype=torch.int64).random_(_INT64_MIN, None, generator=ours)
    same_state = torch.equal(theirs.get_state(), ours.get_state())
    return same_state and torch.equal(exponentials, _to_exponentials(words))
