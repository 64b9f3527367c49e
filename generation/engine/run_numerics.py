"""The threads and the flags of torch that the turns of a run are computed with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from tokentape.generation.engine.threads import torch_threads
from tokentape.generation.numerics.as_recorded import numerics_as_recorded
from tokentape.generation.numerics.attention import cuda_device, repeatable_attention
from tokentape.generation.numerics.flags import read_flags


class RunNumerics:
    """Threads and flags that stay those which the beginning of the run recorded.

    A caller may change them between turns: the record would be wrong then, and no replay would find
    the bits again.
    """

    def __init__(self, model: Any, threads: int | None) -> None:
        self._model = model
        self._threads = threads
        """None for those that torch has, until the run begins."""
        self._flags: Mapping[str, str] = {}
        """Empty until the run begins."""

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Within this context, record the beginning of the run, or of its part since a resume.

        Later turns are computed with the threads and flags of now.
        """
        with torch_threads(self._threads):
            self._threads = torch.get_num_threads()
            device = cuda_device(self._model)
            with repeatable_attention(device):
                self._flags = read_flags(cuda=device is not None)
            yield

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Compute with the threads and flags of the run within this context."""
        with torch_threads(self._threads), numerics_as_recorded(self._flags):
            yield
