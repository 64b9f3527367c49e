"""The prefill of a prompt: the part that is not cached, in chunks where that is exact."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig

from tokentape.generation import hf
from tokentape.generation.batch import SharedPrefix, member_for
from tokentape.generation.cache import NO_TOKEN, CacheLease, PrefixCache
from tokentape.generation.numerics.attention import cuda_device
from tokentape.generation.run_settings import default_chunk_tokens
from tokentape.recorder.events import CacheMode, CacheSource

_FULL_CHUNKS_TOKENS = 8192
"""The longest context for which the default chunk is not lowered.

The mask of such a forward has 16 MB in float32 with chunks of 512 tokens.
"""


def prefill(
    model: Any,
    ids: torch.Tensor,
    lease: CacheLease,
    config: GenerationConfig,
    *,
    chunk_tokens: int | None,
) -> tuple[hf.Decoder, torch.Tensor, tuple[int, ...]]:
    """Forward the ids, int64 of shape (1, tokens), that the lease's cache does not hold.

    Other members of a batch use the model between two chunks. Return the decoder, the logits of the
    last position, float32 of shape (1, vocab), and the number of tokens in each forward, at most
    `chunk_tokens`.
    """
    held, on_cuda = lease.reuse.reused_tokens, cuda_device(model) is not None
    decoder = hf.Decoder(model, config, ids, lease.cache, held=held)
    member = member_for(model)
    logits, chunks = decoder.prefill(
        forward_tokens_max(lease, config, ids.shape[1], chunk_tokens, on_cuda=on_cuda),
        one_by_one=lease.policy.continues == "tokens",
        between_chunks=None if member is None else member.queue.pause,
    )
    return decoder, logits, chunks


def ids_tensor(ids: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return the ids as int64 of shape (1, tokens)."""
    return torch.tensor([list(ids)], dtype=torch.long, device=device)


def forward_tokens_max(
    lease: CacheLease,
    config: GenerationConfig,
    total_tokens: int,
    chunk_tokens_max: int | None,
    *,
    on_cuda: bool,
) -> int | None:
    """Return how many tokens a forward may have, or None for a prefill that is not split.

    The caller's `prefill_chunk_size` comes before the run's setting.
    """
    if not lease.policy.splits_prefill:
        return None
    from_caller: int | None = config.prefill_chunk_size
    if from_caller or chunk_tokens_max is None:
        return from_caller
    return longest_chunk(chunk_tokens_max, total_tokens, on_cuda=on_cuda)


def longest_chunk(chunk_tokens_max: int, total_tokens: int, *, on_cuda: bool) -> int:
    """Return how many tokens a forward may have in a prompt of `total_tokens`.

    The default is lowered for a long context: the attention mask of a chunk has as many elements as
    the chunk times all tokens.
    """
    default = default_chunk_tokens(on_cuda=on_cuda)
    if chunk_tokens_max != default:
        return chunk_tokens_max
    return max(1, min(default, default * _FULL_CHUNKS_TOKENS // total_tokens))


@dataclass(frozen=True, slots=True)
class SystemPrefill:
    """A cache of exactly the ids of a system prompt."""

    lease: CacheLease
    chunks: tuple[int, ...]
    """The lengths of the forwards that computed what was not cached, in tokens."""
    source: CacheSource
    """Where the keys and values came from. With chunks, `MEMORY` is another member of the batch."""


def prefill_alone(
    model: Any, cache: PrefixCache, ids: tuple[int, ...], chunk_tokens: int | None
) -> SystemPrefill:
    """Return a cache of exactly these ids, computed here or by another member of the batch."""
    config = hf.prefill_config(model)
    lease = cache.acquire((*ids, NO_TOKEN), config, total_tokens=len(ids) + 1)
    reused = lease.reuse.reused_tokens
    if reused == len(ids):
        return SystemPrefill(lease, (), lease.reuse.source)

    def compute() -> SharedPrefix:
        tensor = ids_tensor(ids, model.device)
        _, _, chunks = prefill(model, tensor, lease, config, chunk_tokens=chunk_tokens)
        return SharedPrefix(lease.cache, chunks)

    member = member_for(model)
    # A foreign hook is to see the forwards of every run.
    is_own = bool(reused) or lease.key["hooks"] != "none" or lease.policy.mode is not CacheMode.CROP
    if member is None or is_own:
        return SystemPrefill(lease, compute().chunks, CacheSource.COMPUTED)
    name = (ids, chunk_tokens, tuple(sorted(lease.key.items())))
    found, is_shared = member.prefixes.get(name, compute)
    return SystemPrefill(
        replace(lease, cache=found.cache),
        found.chunks,
        CacheSource.MEMORY if is_shared else CacheSource.COMPUTED,
    )
