"""The random numbers of a turn, drawn again for many tokens at once."""

import torch

from tokentape.generation.engine.multinomial import draw_exponentials, skip_exponentials


class NoiseStream:
    """The exponentials that `torch.multinomial` draws from a seed, row after row."""

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
        skip_exponentials(self.generator, exponentials, vocabulary=self._vocabulary)

    def exponentials(self, unfiltered: torch.Tensor) -> torch.Tensor:
        """Draw the next exponentials, float32 of shape (rows, vocab).

        Values outside of the bool mask `unfiltered`, of the same shape, are undefined.
        """
        return draw_exponentials(unfiltered, self.generator)
