"""A warning before a turn that needs more memory than is free."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from tokentape.generation import hf
from tokentape.generation.cache import CacheLease
from tokentape.generation.engine.prefill import forward_tokens_max
from tokentape.generation.errors import LowMemoryWarning
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.models import memory_check
from tokentape.generation.models.forward_memory import (
    ForwardShape,
    forward_shape,
    transient_bytes,
)
from tokentape.generation.models.kv_memory import capacity_bytes, content_bytes
from tokentape.generation.numerics.attention import cuda_device

_WORSE = 2
"""A later turn is warned of if it lacks this many times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnNeed:
    """The memory that a turn needs in addition to what is in use, in bytes."""

    kv: int
    """New buffers of the KV cache; 0 if the tokens fit into its spare capacity."""
    transient: int
    """The largest forward of the prefill; see `transient_bytes`."""

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.kv + self.transient


class MemoryGuard:
    """Warns, once and when it gets worse, before turns that need more memory than is free.

    `read_free` returns the bytes that tensors on a device can take.
    """

    def __init__(self, read_free: Callable[[torch.device], int] | None = None) -> None:
        self._read_free = read_free
        self._shape: tuple[tuple[object, ...], ForwardShape] | None = None
        self._missing = 0

    def check(
        self,
        model: Any,
        lease: CacheLease,
        config: GenerationConfig,
        *,
        turn: int,
        prompt_tokens: int,
        chunk_tokens: int | None,
    ) -> None:
        """Warn if a turn with this prompt, with all the new tokens that it may have, lacks memory.

        `chunk_tokens` is the run's setting.
        """
        computed = prompt_tokens - lease.reuse.reused_tokens
        gpu = cuda_device(model)
        device = model.device if gpu is None else gpu
        longest = forward_tokens_max(
            lease, config, prompt_tokens, chunk_tokens, on_cuda=gpu is not None
        )
        new = int(config.max_new_tokens or 0)
        need = self._need(
            model,
            lease,
            forward_tokens=min(computed, longest or computed),
            prompt_tokens=prompt_tokens,
            new_tokens=new,
        )
        read = self._read_free or memory_check.usable_bytes
        free = read(device)
        missing = need.total - free
        if missing <= _WORSE * self._missing:
            return
        self._missing = missing
        warnings.warn(
            f"turn {turn} may run out of memory: it needs {_gigabytes(need.total)} more "
            f"(KV cache {_gigabytes(need.kv)} for {prompt_tokens + new:,} tokens, transient "
            f"{_gigabytes(need.transient)}), and {_gigabytes(free)} are free on {device}; "
            "lower max_new_tokens, prefill_chunk_tokens or cache_bytes, or clear the cache; "
            "`tokentape plan` proposes a budget",
            LowMemoryWarning,
            stacklevel=2,
        )

    def _need(
        self,
        model: Any,
        lease: CacheLease,
        *,
        forward_tokens: int,
        prompt_tokens: int,
        new_tokens: int,
    ) -> TurnNeed:
        layers, total = lease.policy.layers, prompt_tokens + new_tokens
        held = hf.kv_bytes(lease.cache) if lease.reuse.reused_tokens else 0
        room = content_bytes(layers, total) <= held
        transient = transient_bytes(
            self._shape_of(model), new_tokens=forward_tokens, total_tokens=prompt_tokens
        )
        return TurnNeed(
            kv=0 if room else capacity_bytes(layers, total, forward_tokens),
            transient=transient.total,
        )

    def _shape_of(self, model: Any) -> ForwardShape:
        """Return the sizes of the model, read again if its kernel or its dtype has changed."""
        key = (attention_kernel(model), hf.compute_dtype(model))
        if self._shape is None or self._shape[0] != key:
            self._shape = (key, forward_shape(model))
        return self._shape[1]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 10**8 else f"{size / 1e6:,.1f} MB"
