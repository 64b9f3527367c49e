"""The threads and the flags of torch that the turns of a run are computed with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from tokentape.generation.batch import member_for
from tokentape.generation.engine.thread_probe import ThreadProbe, probe_threads
from tokentape.generation.errors import ModelError
from tokentape.generation.numerics.as_recorded import numerics_as_recorded
from tokentape.generation.numerics.attention import cuda_device, repeatable_attention
from tokentape.generation.numerics.flags import read_flags
from tokentape.generation.numerics.threads import torch_threads
from tokentape.generation.run_settings import PROBE, Threads


class RunNumerics:
    """Threads and flags that stay those which the beginning of the run recorded.

    A caller may change them between turns: the record would be wrong then, and no replay would find
    the bits again.
    """

    def __init__(self, model: Any, threads: Threads) -> None:
        self._model = model
        self._chosen = threads
        self._threads: int | None = None
        """None for those that torch has, until the run begins."""
        self.probe: ThreadProbe | None = None
        """Why the number of threads was chosen, if a probe chose it."""
        self._flags: Mapping[str, str] = {}
        """Empty until the run begins."""

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Within this context, record the beginning of the run, or of its part since a resume.

        Later turns are computed with the threads and flags of now.
        """
        with torch_threads(self._number()):
            self._threads = torch.get_num_threads()
            device = cuda_device(self._model)
            with repeatable_attention(device):
                self._flags = read_flags(cuda=device is not None)
            yield

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Compute with the threads and flags of the run within this context.

        Raise ModelError if a run of a batch has others than the batch.
        """
        if member_for(self._model) is not None:
            self._check_are_those_of_batch()
            yield
            return
        with torch_threads(self._number()), numerics_as_recorded(self._flags):
            yield

    def _number(self) -> int | None:
        """Return the number of threads; probe for it once if that was chosen.

        In a batch it is that of the batch.
        """
        if self._threads is None:
            if self._chosen != PROBE:
                self._threads = self._chosen
            elif member_for(self._model) is not None:
                self._threads = torch.get_num_threads()
            else:
                self.probe = probe_threads(self._model)
                self._threads = self.probe.threads
        return self._threads

    def _check_are_those_of_batch(self) -> None:
        """Raise ModelError for other threads or flags: those of the process serve all its runs."""
        threads = torch.get_num_threads()
        if self._number() not in (None, threads):
            raise ModelError(
                f"the run computes with {self._threads} threads and its batch with {threads}: call "
                f"torch.set_num_threads({self._threads}) before the batch begins"
            )
        flags = read_flags(cuda=cuda_device(self._model) is not None)
        changed = [name for name, value in self._flags.items() if flags.get(name) != value]
        if changed:
            raise ModelError(
                f"{changed[0]} has changed since the run began: set it before the batch begins"
            )
