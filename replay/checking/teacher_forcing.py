"""One teacher-forced forward over token ids, and the logits of the rows that are wanted."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from tokentape.generation import hf
from tokentape.generation.models.memory_check import enough_memory

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
    needed = rows[-1] + 1
    whole = hf.recurrent(hf.new_cache(model)) or hf.prefix_obstacle(model) is not None
    vocabulary = model.get_input_embeddings().num_embeddings
    chunk = needed if whole else max(1, min(chunk_tokens, _CHUNK_LOGITS // vocabulary))
    for _, logits in logits_by_span(model, ids, rows, spans_of(needed, chunk)):
        yield logits


def spans_of(end: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of so many positions, the last perhaps of fewer."""
    return ((start, min(start + chunk, end)) for start in range(0, end, chunk))


def logits_by_span(
    model: Any, ids: Sequence[int], rows: Sequence[int], spans: Iterable[tuple[int, int]]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Forward the spans one behind the other, and give the wanted rows of each that has any.

    Which of `rows` they are, by their places in it, and their raw logits, float32 of shape (some
    rows, vocab). Raises ModelError where memory runs out.
    """
    tensor = torch.tensor([list(ids[: rows[-1] + 1])], dtype=torch.long, device=model.device)
    cache = hf.new_cache(model)
    for start, end in spans:
        places = list(range(bisect_left(rows, start), bisect_left(rows, end)))
        here = [rows[place] - start for place in places]
        keep = torch.tensor(here, dtype=torch.long, device=model.device)
        with torch.no_grad(), enough_memory(f"forward {end} tokens: give fewer chunk_tokens"):
            logits = hf.forward_rows(model, tensor[:, start:end], cache, keep)[0].to(torch.float32)
        if places:
            yield places, logits
