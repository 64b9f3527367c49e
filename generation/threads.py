"""How many threads torch computes with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from generation.errors import ModelError


def refuse_threads(count: int | None) -> None:
    """Raise ModelError for a number of threads that cannot be."""
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ModelError(f"threads must be at least one, or None for torch's own: {count!r}")


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Compute with that many threads; torch's own setting comes back. None leaves it alone."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)
