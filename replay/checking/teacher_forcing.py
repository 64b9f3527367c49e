"""Teacher-forced forwards over token ids, and the logits of the requested positions."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from tokentape.generation import hf
from tokentape.generation.models.memory_check import enough_memory

CHUNK_TOKENS = 512
# Rows of a chunk times the vocabulary: bounds the float32 logits in memory to a quarter of a GB.
CHUNK_LOGITS = 2**26


def teacher_forced_logits(
    model: Any, ids: Sequence[int], rows: Sequence[int], *, chunk_tokens: int = CHUNK_TOKENS
) -> Iterator[torch.Tensor]:
    """Yield the raw logits at the positions `rows`, ascending: float32 of shape (rows, vocab).

    The rows of one chunk are yielded together; use them before the next chunk is computed. Chunks
    extend one cache. A model that cannot exactly extend a cache gets a single forward.
    """
    needed = rows[-1] + 1
    single = hf.recurrent(hf.new_cache(model)) or hf.prefix_obstacle(model) is not None
    vocabulary = model.get_input_embeddings().num_embeddings
    chunk = needed if single else max(1, min(chunk_tokens, CHUNK_LOGITS // vocabulary))
    for _, logits in logits_by_span(model, ids, rows, chunk_spans(needed, chunk)):
        yield logits


def chunk_spans(end: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Yield half-open ranges of `chunk` positions up to `end`; the last may be shorter."""
    return ((start, min(start + chunk, end)) for start in range(0, end, chunk))


def logits_by_span(
    model: Any, ids: Sequence[int], rows: Sequence[int], spans: Iterable[tuple[int, int]]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Forward the spans in order through one cache and yield the logits of the requested rows.

    For each span that holds some of the `rows`, yield their indices in `rows` and their raw logits,
    float32 of shape (indices, vocab). Raise ModelError if memory runs out.
    """
    tensor = torch.tensor([list(ids[: rows[-1] + 1])], dtype=torch.long, device=model.device)
    cache = hf.new_cache(model)
    for start, end in spans:
        indices = list(range(bisect_left(rows, start), bisect_left(rows, end)))
        in_span = [rows[index] - start for index in indices]
        keep = torch.tensor(in_span, dtype=torch.long, device=model.device)
        with torch.no_grad(), enough_memory(f"forward {end} tokens: give fewer chunk_tokens"):
            logits = hf.forward_rows(model, tensor[:, start:end], cache, keep)[0].to(torch.float32)
        if indices:
            yield indices, logits
