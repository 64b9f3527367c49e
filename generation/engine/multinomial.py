"""`torch.multinomial` for one token, whose random numbers are computed only where they can matter.

It divides the probabilities by exponentials, one for each token of the vocabulary, and picks the
largest quotient. On a CPU an exponential is -log1p(-u), where u is the lower 53 bits of one 64-bit
draw (ATen/native/cpu/DistributionTemplates.h and ATen/native/TransformationHelper.h). The
logarithms take most of the time, and they are needed only for tokens that the filters leave.

A CUDA generator gives each kernel launch its own numbers, and torch 2.6 with MKL seeds a stream of
MKL for each call (ATen/native/cpu/DistributionKernels.cpp). There, torch draws all exponentials.
"""

from functools import cache

import torch

_BITS_53 = 2**53 - 1
_SCALE = 2.0**-53
_INT64_MIN = -(2**63)
# Above this share of tokens left, torch's own exponentials are faster than computing some of them.
_SHARE_LEFT = 0.25


def pick(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return what `torch.multinomial(probabilities, 1, generator=generator)` returns.

    `probabilities` is the softmax of one row, shape (1, vocab); the result has shape (1, 1).
    The generator advances alike. Raise RuntimeError for probabilities that are not finite.

    Two cases can differ, each less often than once in 2**40 tokens: where u is exactly 0, torch may
    pick a token of probability 0; and a logarithm may be rounded otherwise between equal quotients.
    """
    if draws_are_known(probabilities.device):
        # NaN counts as left: then everything is left, and torch raises the error.
        left = probabilities[0].bool()
        if int(left.count_nonzero()) <= _SHARE_LEFT * left.numel():
            places = left.nonzero()[:, 0]
            words = _words(left.numel(), generator)
            quotients = probabilities[0, places] / _to_exponentials(words[places])
            return places[quotients.argmax()].view(1, 1)
    return torch.multinomial(probabilities, num_samples=1, generator=generator)


def draw_exponentials(unfiltered: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw the exponentials of consecutive picks, float32 of shape (rows, vocab).

    Values outside of the bool mask `unfiltered`, of the same shape, are undefined.
    """
    if not draws_are_known(unfiltered.device):
        rows = [_exponentials(row.numel(), generator) for row in unfiltered]
        return torch.stack(rows) if rows else torch.empty(unfiltered.shape, device=generator.device)
    places = unfiltered.nonzero(as_tuple=True)
    if len(places[0]) > _SHARE_LEFT * unfiltered.numel():
        return _exponentials(unfiltered.numel(), generator).view(unfiltered.shape)
    words = _words(unfiltered.numel(), generator).view(unfiltered.shape)
    drawn = torch.ones(unfiltered.shape)
    drawn[places] = _to_exponentials(words[places])
    return drawn


def skip_exponentials(generator: torch.Generator, count: int, *, vocabulary: int) -> None:
    """Advance the generator by single exponentials; a pick draws one for each token."""
    known = draws_are_known(generator.device)
    while count > 0:
        drawn = min(count, vocabulary)
        if known:
            _words(drawn, generator)
        else:
            _exponentials(drawn, generator)
        count -= drawn


def draws_are_known(device: torch.device) -> bool:
    """Return whether torch computes exponentials on this device from draws as described above."""
    return device.type == "cpu" and _is_known_on_cpu()


@cache
def _is_known_on_cpu() -> bool:
    theirs, ours = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    exponentials = _exponentials(4096, theirs)
    words = _words(4096, ours)
    same_state = torch.equal(theirs.get_state(), ours.get_state())
    return same_state and torch.equal(exponentials, _to_exponentials(words))


def _words(count: int, generator: torch.Generator) -> torch.Tensor:
    words = torch.empty(count, dtype=torch.int64)
    return words.random_(_INT64_MIN, None, generator=generator)


def _exponentials(count: int, generator: torch.Generator) -> torch.Tensor:
    empty = torch.empty(count, device=generator.device)
    return empty.exponential_(1.0, generator=generator)


def _to_exponentials(words: torch.Tensor) -> torch.Tensor:
    uniform = (words & _BITS_53).double() * _SCALE
    return (-torch.log1p(-uniform)).float()
