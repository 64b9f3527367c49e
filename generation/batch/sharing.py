"""Whether the sequences of a model can share forwards: a decision with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch

from tokentape.generation import hf
from tokentape.generation.batch.row_counts import (
    RowCounts,
    forked_sequence,
    probe_row_counts,
    short_sequence,
)
from tokentape.generation.hooks.hook_types import without_hooks
from tokentape.generation.hooks.model_use import exclusive_use

_DIFFERENCE_MAX = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""How far the logits of a shared forward may be from those alone, relative to the largest.

Rounding gives far less; attention to wrong keys far more.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How the runs of a batch are forwarded."""

    obstacle: str
    """Why each run is forwarded alone, as `kind:what`; empty if they share forwards."""
    row_counts: RowCounts
    forwards: hf.SharedForwards


def probe_sharing(model: Any, size: int) -> Sharing:
    """Try forwards of two sequences, and time them for up to `size` sequences."""
    shared, counts = hf.SharedForwards(model), RowCounts({1: 0})
    obstacle = hf.sharing_obstacle(model)
    if size > 1 and obstacle is None:
        with exclusive_use(model), without_hooks(model), torch.no_grad():
            prefilled = [short_sequence(model, length=length) for length in (3, 5)]
            obstacle = _obstacle_found(model, shared, prefilled)
            if obstacle is None:
                _prove_trace(model, shared, prefilled, size)
                counts = probe_row_counts(model, shared, size)
    return Sharing(obstacle=obstacle or "", row_counts=counts, forwards=shared)


def _prove_trace(
    model: Any, shared: hf.SharedForwards, prefilled: Sequence[hf.SequenceStep], size: int
) -> None:
    """Let forwards be taken from a trace, if it has the bits of the modules."""

    def sequences() -> list[hf.SequenceStep]:
        return [forked_sequence(model, each) for each in islice(cycle(prefilled), max(3, size))]

    shared.prove_trace(sequences(), sequences())


def _obstacle_found(
    model: Any, shared: hf.SharedForwards, prefilled: Sequence[hf.SequenceStep]
) -> str | None:
    """Return why two sequences that are forwarded together do not get what each gets alone."""

    def sequences() -> list[hf.SequenceStep]:
        return [forked_sequence(model, each) for each in prefilled]

    try:
        together = shared.forward(sequences(), rows=3, places=(0, 1))
    except Exception as error:
        return f"forward:{type(error).__name__}"
    for row, (step, again) in enumerate(zip(sequences(), sequences(), strict=True)):
        alone = step.decoder.forward(step.ids)
        limit = _DIFFERENCE_MAX.get(hf.compute_dtype(model), 0.25) * float(alone.abs().max())
        if not float((together[row] - alone).abs().max()) <= limit:
            return "forward:other logits"
        copies = shared.forward([again], rows=3, places=[row])
        if not torch.equal(copies[0], together[row]):
            return "forward:rows depend on each other"
    return None
