"""What no cache holds of a prompt is forwarded, in chunks where that changes nothing."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from tokentape.generation import hf
from tokentape.generation.cache import CacheLease

# New tokens times all tokens of a forward: 16 MB of float32.
_MASK_ELEMENTS = 2**22


def prefill(
    model: Any,
    ids: Sequence[int],
    start: CacheLease,
    config: GenerationConfig,
    *,
    chunk_tokens: int | None,
) -> tuple[hf.Decoder, torch.Tensor, tuple[int, ...]]:
    """Forward the ids that `start` does not hold, at most `chunk_tokens` at a time.

    The decoder, the last logits, float32 of shape (1, vocab), and the tokens of each forward.
    """
    input_ids = torch.tensor([list(ids)], dtype=torch.long, device=model.device)
    held = start.reuse.reused_tokens
    decoder = hf.Decoder(model, config, input_ids, start.cache, held=held)
    logits, chunks = decoder.prefill(
        _chunk_tokens(start, config, len(ids), chunk_tokens),
        one_by_one=start.policy.continues == "tokens",
    )
    return decoder, logits, chunks


def _chunk_tokens(
    start: CacheLease, config: GenerationConfig, total_tokens: int, most: int | None
) -> int | None:
    """The caller's own setting before the run's, and neither where it would be inexact.

    The run's is less where there is much before the chunk: the mask between the two is as large as
    one times the other, and the memory of a prefill would grow with each turn.
    """
    if not start.policy.splits_prefill:
        return None
    own: int | None = config.prefill_chunk_size
    if own or most is None:
        return own
    return max(1, min(most, _MASK_ELEMENTS // total_tokens))
