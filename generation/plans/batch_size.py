"""How many runs of experiment plans advance together, by the memory that is free."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from tokentape.generation.checks import check_count
from tokentape.generation.errors import PromptError
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.models.memory_check import usable_bytes
from tokentape.generation.models.model_sizes import model_sizes
from tokentape.generation.numerics.attention import cuda_device
from tokentape.generation.plans.memory_plan import RESERVE_SHARE, reckon_memory
from tokentape.generation.plans.plan import ExperimentPlan
from tokentape.generation.plans.plan_memory import cache_use
from tokentape.generation.plans.turn_lengths import plan_lengths
from tokentape.generation.run_settings import default_chunk_tokens

BATCH_MAX = 32
"""The most runs that are chosen to advance together."""
_GIB = 1024**3

RunsAtOnce = int | Literal["auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """How many runs advance together, and why not more."""

    runs: int
    reason: Literal["all runs", "memory", "limit"]
    """All runs there are; the free memory; or `BATCH_MAX`."""
    run_bytes: int
    """Caches of one run in its largest turn."""
    shared_bytes: int
    """Transient memory of the largest prefill: one run is prefilled at a time."""
    free_bytes: int
    """Memory that tensors on the model's device could take."""
    device: str

    def describe(self) -> str:
        """Return the size and its reason in a sentence."""
        each = f"each needs up to {self.run_bytes / _GIB:.2f} GiB of caches"
        free = f"{self.free_bytes / _GIB:.2f} GiB are free on {self.device}"
        if self.reason == "memory":
            return f"{self.runs} at a time fit into memory: {each}, and {free}"
        if self.reason == "limit":
            return f"{self.runs} at a time, the most that is chosen: {each}, and {free}"
        return f"all {self.runs} at a time: {each}, and {free}"


def fitting_batch(
    plans: Iterable[ExperimentPlan], lm: LoadedModel, *, runs: int, free_bytes: int | None = None
) -> BatchSize:
    """Return how many runs of these plans fit into memory at a time: at least one.

    Each run is taken to be as long as its plan allows, see `plan_memory`, and a tenth of what all
    need is kept free for blocks of the allocator that are too small. `free_bytes` is by default
    the free memory of the model's device, which holds the weights. At most `BATCH_MAX` runs are
    chosen, and at most all of them. Raise PromptError if a plan names a tool or a
    weight that does not exist.
    """
    sizes = model_sizes(lm.model, lm.name)
    gpu = cuda_device(lm.model)
    device = torch.device(lm.model.device) if gpu is None else gpu
    free = usable_bytes(device) if free_bytes is None else free_bytes
    use, chunk = cache_use(lm.model, sizes), default_chunk_tokens(on_cuda=gpu is not None)
    run_bytes = shared_bytes = 0
    for plan in plans:
        lengths = plan_lengths(plan, lm.model, lm.tokenizer, context_tokens=sizes.context_tokens)
        found = reckon_memory(
            sizes,
            use,
            lengths.turns,
            device="cpu" if gpu is None else "cuda",
            device_bytes=free,
            prefill_chunk_tokens=chunk,
            system_tokens=lengths.system_tokens,
        )
        run_bytes = max(run_bytes, *(turn.kv_bytes for turn in found.turns))
        shared_bytes = max(shared_bytes, *(turn.transient.total for turn in found.turns))
    fit = int(free / (1 + RESERVE_SHARE) - shared_bytes) // max(run_bytes, 1)
    size = max(1, min(fit, runs, BATCH_MAX))
    return BatchSize(
        runs=size,
        reason="memory" if fit < min(runs, BATCH_MAX) else "all runs" if size == runs else "limit",
        run_bytes=run_bytes,
        shared_bytes=shared_bytes,
        free_bytes=free,
        device=str(device),
    )


def check_batch(batch: int | str) -> RunsAtOnce:
    """Return how many runs a caller wants to advance together. Raise PromptError if not valid."""
    if batch == "auto":
        return "auto"
    if isinstance(batch, str):
        raise PromptError(f"batch must be a number of runs or 'auto', not {batch!r}")
    return check_count("batch", batch, least=1)
