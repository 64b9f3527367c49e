"""One teacher-forced forward over token ids, and the logits of the rows that are wanted."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from generation import hf

# The rows of a chunk are judged before the next is computed: this bounds the logits in memory.
CHUNK_TOKENS = 512


def teacher_forced_logits(
    model: Any, ids: Sequence[int], rows: Sequence[int]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Raw logits after each position of `rows`, ascending: float32 of shape (1, vocab).

    Chunks follow each other through a cache; a model that cannot exactly go on gets one forward.
    """
    wanted = sorted(rows)
    needed = wanted[-1] + 1
    tensor = torch.tensor([list(ids[:needed])], dtype=torch.long, device=model.device)
    cache = hf.new_cache(model)
    whole = hf.recurrent(cache) or hf.prefix_obstacle(model)
    chunk = needed if whole else CHUNK_TOKENS
    for start in range(0, needed, chunk):
        end = min(start + chunk, needed)
        here = [row for row in wanted if start <= row < end]
        keep = torch.tensor([row - start for row in here], dtype=torch.long, device=model.device)
        with torch.no_grad():
            logits = hf.forward_rows(model, tensor[:, start:end], cache, keep)
        for index, row in enumerate(here):
            yield row, logits[:, index].to(torch.float32)
