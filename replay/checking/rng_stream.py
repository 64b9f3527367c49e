"""The random numbers of a turn, drawn again for many tokens at once.

`torch.multinomial` divides the probabilities by exponentials, one for each token of the vocabulary,
and picks the largest quotient. On a CPU an exponential is -log1p(-u), where u is the lower 53 bits
of one 64-bit draw (ATen/native/cpu/DistributionTemplates.h and ATen/native/TransformationHelper.h).
So the draws of all rows can be made first, and the logarithm is computed only for tokens that the
filters leave.

A CUDA generator gives each kernel launch its own numbers, and torch 2.6 with MKL seeds a stream of
MKL for each call (ATen/native/cpu/DistributionKernels.cpp). There, the exponentials of a row are
those of one call, so rows are drawn one after the other.
"""

from functools import cache

import torch

_BITS_53 = 2**53 - 1
_SCALE = 2.0**-53
_INT64_MIN = -(2**63)
# Above this share of tokens left, torch's own exponentials are faster than computing some of them.
_SHARE_LEFT = 0.25


class NoiseStream:
    """The exponentials that `multinomial` draws from a seed, row after row."""

    def __init__(self, seed: int, vocabulary: int, device: torch.device) -> None:
        """Raise RuntimeError for a seed that torch does not accept."""
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self._vocabulary = vocabulary
        self._device = device

    def restarted(self) -> "NoiseStream":
        """Return a new stream that starts from the same seed."""
        return NoiseStream(self.generator.initial_seed(), self._vocabulary, self._device)

    def skip(self, exponentials: int) -> None:
        """Skip single exponentials; one token draws as many as the vocabulary has tokens."""
        while exponentials > 0:
            count = min(exponentials, self._vocabulary)
            if self._device.type == "cpu" and is_known_stream():
                self._words(count)
            else:
                self._exponentials(count)
            exponentials -= count

    def exponentials(self, unfiltered: torch.Tensor) -> torch.Tensor:
        """Draw the next exponentials, float32 of shape (rows, vocab).

        Values outside of the bool mask `unfiltered`, of the same shape, are undefined.
        """
        if self._device.type != "cpu" or not is_known_stream():
            rows = [self._exponentials(self._vocabulary) for _ in range(len(unfiltered))]
            return torch.stack(rows) if rows else torch.empty(unfiltered.shape, device=self._device)
        places = unfiltered.nonzero(as_tuple=True)
        if len(places[0]) > _SHARE_LEFT * unfiltered.numel():
            return self._exponentials(unfiltered.numel()).view(unfiltered.shape)
        words = self._words(unfiltered.numel()).view(unfiltered.shape)
        drawn = torch.ones(unfiltered.shape)
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
    """Return whether this torch computes exponentials from its draws as described above."""
    theirs, ours = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    exponentials = torch.empty(4096).exponential_(1.0, generator=theirs)
    words = torch.empty(4096, dtype=torch.int64).random_(_INT64_MIN, None, generator=ours)
    same_state = torch.equal(theirs.get_state(), ours.get_state())
    return same_state and torch.equal(exponentials, _to_exponentials(words))
