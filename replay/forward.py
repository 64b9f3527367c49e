"""One teacher-forced forward over token ids, and the logits of the rows that are wanted."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from generation import hf
from generation.fitting import enough_memory

CHUNK_TOKENS = 512
# Rows of a chunk times the vocabulary: this bounds the logits in memory, to a quarter of a GB.
_CHUNK_LOGITS = 2**26


def teacher_forced_logits(
    model: Any, ids: Sequence[int], rows: Sequence[int], *, chunk_tokens: int = CHUNK_TOKENS
) -> Iterator[torch.Tensor]:
    """Raw logits after each position of `rows`, ascending: float32 of shape (some rows, vocab).

    Chunks follow each other through a cache; a model that cannot exactly go on gets one forward.
    The rows of a chunk come together, and are to be used before the next is asked for.
    """
    wanted = sorted(rows)
    needed = wanted[-1] + 1
    tensor = torch.tensor([list(ids[:needed])], dtype=torch.long, device=model.device)
    cache = hf.new_cache(model)
    whole = hf.recurrent(cache) or hf.prefix_obstacle(model) is not None
    vocabulary = model.get_input_embeddings().num_embeddings
    chunk = needed if whole else max(1, min(chunk_tokens, _CHUNK_LOGITS // vocabulary))
    for start in range(0, needed, chunk):
        end = min(start + chunk, needed)
        here = [row - start for row in wanted if start <= row < end]
        keep = torch.tensor(here, dtype=torch.long, device=model.device)
        with torch.no_grad(), enough_memory(f"forward {end} tokens: give fewer chunk_tokens"):
            logits = hf.forward_rows(model, tensor[:, start:end], cache, keep)[0].to(torch.float32)
        if here:
            yield logits
