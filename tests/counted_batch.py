"""A batch that says how large batches were, for tests of what starts jobs in one."""

from typing import Any

import pytest

import tokentape as tt
from tokentape.generation.plans import many_runs


class CountedBatch(tt.Batch):
    """A batch whose class keeps the sizes of its instances."""

    sizes: tuple[int, ...] = ()

    def __init__(self, lm: Any, *, size: int) -> None:
        type(self).sizes += (size,)
        super().__init__(lm, size=size)


def counted_batch(patch: pytest.MonkeyPatch) -> type[CountedBatch]:
    """Have `run_many` use a new class of counted batches, and return it."""
    batch = type("CountedBatch", (CountedBatch,), {"sizes": ()})
    patch.setattr(many_runs, "Batch", batch)
    return batch
