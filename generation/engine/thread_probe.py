"""A probe of the number of threads with which a model is fastest."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from tokentape.generation import hf
from tokentape.generation.hooks.hook_types import without_hooks
from tokentape.generation.hooks.model_use import exclusive_use
from tokentape.generation.numerics.threads import torch_threads

_PROMPT_TOKENS, _ROUNDS = 16, 5
_WORTH = 0.95
"""More threads are chosen if a step takes at most this share of its time with fewer.

They are shared with other processes, and torch's threads wait for one that is interrupted.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadProbe:
    """How long a step of a model took with several numbers of threads, and which was chosen."""

    threads: int
    reason: str
    """Why, in words."""
    step_ms: Mapping[int, float]
    """By number of threads, the median milliseconds of a decode step."""


def probe_threads(model: Any) -> ThreadProbe:
    """Time decode steps of a model with 1, 2, 4 … threads, up to the cores of this process.

    The numbers take turns, so that what else the machine does slows them all. Neither the model nor
    torch's threads or random state are changed; hooks see nothing.
    """
    counts = _counts(_cores())
    with exclusive_use(model), without_hooks(model):
        step_ms = {count: median(taken) for count, taken in _timed_steps(model, counts).items()}
    return choose_threads(step_ms)


def choose_threads(step_ms: Mapping[int, float]) -> ThreadProbe:
    """Choose the fewest threads that no greater number beats by 5 %.

    `step_ms` has the milliseconds of a step by number of threads; one thread must be among them.
    """
    chosen = 1
    for count in sorted(step_ms):
        if step_ms[count] <= step_ms[chosen] * _WORTH:
            chosen = count
    times = ", ".join(f"{ms:.1f} ms with {count}" for count, ms in sorted(step_ms.items()))
    return ThreadProbe(threads=chosen, reason=f"a step takes {times}", step_ms=dict(step_ms))


def _timed_steps(model: Any, counts: tuple[int, ...]) -> dict[int, list[float]]:
    """Return the milliseconds of single-token forwards, by number of threads."""
    ids = torch.zeros((1, _PROMPT_TOKENS), dtype=torch.long, device=model.device)
    decoder = hf.Decoder(model, hf.prefill_config(model), ids, hf.new_cache(model))
    decoder.prefill()
    taken: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(_ROUNDS + 1):
        for count in counts:
            ids = torch.cat((ids, ids[:, -1:]), dim=-1)
            with torch_threads(count):
                began = time.perf_counter()
                decoder.forward(ids)[0, 0].item()
                ms = (time.perf_counter() - began) * 1000.0
            if number:
                taken[count].append(ms)
    return taken


def _counts(cores: int) -> tuple[int, ...]:
    """Return the powers of two below the number of cores, and that number."""
    powers = (2**exponent for exponent in range(cores.bit_length()))
    return (*(each for each in powers if each < cores), cores)


def _cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
