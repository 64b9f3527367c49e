"""A warning before a turn that needs more memory than is free."""

import warnings
from collections.abc import Callable
from dataclasses import replace
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
    prefill_bytes,
)
from tokentape.generation.models.kv_memory import capacity_bytes, content_bytes
from tokentape.generation.numerics.attention import cuda_device

_WORSE = 2
"""A later turn is warned of if it lacks this many times as much."""


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
        transient = prefill_bytes(
            self._shape_of(model),
            computed_tokens=computed,
            total_tokens=prompt_tokens,
            forward_tokens=longest or computed,
            on_cuda=gpu is not None,
        )
        kv = self.kv_bytes(lease, prompt_tokens + new, min(computed, longest or computed))
        read = self._read_free or memory_check.usable_bytes
        free = read(device)
        needed = kv + transient.total
        missing = needed - free
        if missing <= _WORSE * self._missing:
            return
        self._missing = missing
        warnings.warn(
            f"turn {turn} may run out of memory: it needs {_gigabytes(needed)} more "
            f"(KV cache {_gigabytes(kv)} for {prompt_tokens + new:,} tokens, transient "
            f"{_gigabytes(transient.total)}), and {_gigabytes(free)} are free on {device}; "
            "lower max_new_tokens, prefill_chunk_tokens or cache_bytes, or clear the cache; "
            "`tokentape plan` proposes a budget",
            LowMemoryWarning,
            stacklevel=2,
        )

    def kv_bytes(self, lease: CacheLease, total_tokens: int, forward_tokens: int) -> int:
        """Return the bytes of new buffers that the cache of a lease needs for so many tokens.

        They are 0 if the tokens fit into its spare capacity.
        """
        held = hf.kv_bytes(lease.cache) if lease.reuse.reused_tokens else 0
        layers = lease.policy.layers
        if content_bytes(layers, total_tokens) <= held:
            return 0
        return capacity_bytes(layers, total_tokens, forward_tokens)

    def _shape_of(self, model: Any) -> ForwardShape:
        """Return the sizes of the model, read again if its kernel or its dtype has changed."""
        key = (attention_kernel(model), hf.compute_dtype(model))
        if self._shape is None or self._shape[0] != key:
            # The scan of recurrent layers depends on installed kernels: no alarm for it.
            self._shape = (key, replace(forward_shape(model), recurrent_states=0))
        return self._shape[1]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 10**8 else f"{size / 1e6:,.1f} MB"
