"""Streams of several recordings in one forward: which go together, and their logits.

A short stream leaves a forward half idle. Streams of like length are forwarded together, padded at
their ends. A common beginning, such as a system prompt, is forwarded once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokentape.generation import hf
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.hf.packed_tensors import has_packed_weights
from tokentape.generation.hf.padded_forward import forward_padded, output_layer, repeat_cache
from tokentape.generation.hooks.hook_types import foreign_hooks
from tokentape.generation.models.memory_check import enough_memory
from tokentape.replay.checking.teacher_forcing import CHUNK_LOGITS, CHUNK_TOKENS, chunk_spans

PREFIX_TOKENS_MIN = 16
"""A common beginning of fewer tokens is not worth a forward of its own."""
# Of a pack, padding and prefixes included: bounds its keys and values.
_CACHED_TOKENS = 4096
_KERNELS = ("sdpa", "eager")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Stream:
    """The ids of one forward, up to the last position whose logits are needed."""

    ids: tuple[int, ...]
    rows: tuple[int, ...]
    """Ascending positions; the last one is that of the last id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Streams to forward together."""

    streams: tuple[int, ...]
    """Their indices."""
    prefix_tokens: int
    """Tokens that all streams of the group begin with, and that are forwarded once for it."""


def packing_obstacle(model: Any) -> str:
    """Return why streams of a model are forwarded one by one; empty if they can be packed.

    In 16 bits the rounding of another shape of forward could change a verdict.
    """
    kernel = attention_kernel(model)
    if hf.compute_dtype(model) is not torch.float32:
        return f"it computes in {str(hf.compute_dtype(model)).removeprefix('torch.')}"
    if has_packed_weights(model):
        return "its weights are quantized"
    if hf.recurrent(hf.new_cache(model)):
        return "it has a recurrent state"
    if hf.prefix_obstacle(model) is not None:
        return "it computes a prefix differently in a longer sequence"
    if hf.experts_setting(model) is not None:
        return "it has experts"
    if kernel.partition("+")[0] not in _KERNELS:
        return f"its attention kernel is {kernel}"
    if not type(model).__module__.startswith("transformers."):
        return "its class is not one of transformers"
    if output_layer(model) is None:
        return "it names no output layer"
    if any(foreign_hooks(each) or hasattr(each, "_hf_hook") for each in model.modules()):
        return "it has hooks"
    return ""


def pack_streams(streams: Sequence[Stream], vocabulary: int) -> list[list[Pack]]:
    """Return groups of packs; the packs of a group have one prefix.

    Streams that begin with the same tokens form a group, and those of like length a pack. A stream
    that is too long to share a forward is in none.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, stream in enumerate(streams):
        beginning = stream.ids[:PREFIX_TOKENS_MIN]
        # The first row that is needed must come after the prefix.
        long = stream.rows[0] >= PREFIX_TOKENS_MIN
        groups.setdefault(beginning if long else (), []).append(index)
    alone = [each[0] for key, each in groups.items() if key and len(each) == 1]
    together = {key: each for key, each in groups.items() if key and len(each) > 1}
    rest = [*groups.get((), ()), *alone]
    found = [_packs_of(streams, rest, 0, vocabulary)]
    for indices in together.values():
        prefix = _common_prefix([streams[index] for index in indices])
        found.append(_packs_of(streams, indices, prefix, vocabulary))
    return [packs for packs in found if packs]


def packed_logits(
    model: Any, streams: Sequence[Stream], group: Sequence[Pack]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Forward the packs of a group; yield each stream's index and logits, float32 (rows, vocab).

    Use the logits of a pack before those of the next are computed. Raise ModelError if memory runs
    out.
    """
    prefix = group[0].prefix_tokens
    first = streams[group[0].streams[0]]
    cache = hf.new_cache(model)
    for start, end in chunk_spans(prefix, CHUNK_TOKENS):
        ids = torch.tensor([first.ids[start:end]], dtype=torch.long, device=model.device)
        last = torch.tensor([end - start - 1], dtype=torch.long, device=model.device)
        with torch.no_grad(), enough_memory(f"forward {end} tokens"):
            hf.forward_rows(model, ids, cache, last)
    for pack in group:
        packed = [streams[index] for index in pack.streams]
        with torch.no_grad(), enough_memory(f"forward {len(packed)} streams"):
            filled = repeat_cache(cache, len(packed)) if prefix else hf.new_cache(model)
            found = forward_padded(
                model,
                [each.ids[prefix:] for each in packed],
                [[row - prefix for row in each.rows] for each in packed],
                filled,
            )
        for index, logits in zip(pack.streams, found, strict=True):
            yield index, logits.to(torch.float32)


def _common_prefix(streams: Sequence[Stream]) -> int:
    """Return how many tokens all streams begin with, before the first row that is needed."""
    shortest, longest = min(each.ids for each in streams), max(each.ids for each in streams)
    limit = min(each.rows[0] for each in streams)
    pairs = zip(shortest[:limit], longest[:limit], strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), limit)


def _packs_of(
    streams: Sequence[Stream], indices: Sequence[int], prefix: int, vocabulary: int
) -> list[Pack]:
    """Return packs of streams of like length, the longest first, without those too long for one."""
    packs: list[list[int]] = []
    longest = rows = 0
    short = [each for each in indices if len(streams[each].ids) - prefix <= CHUNK_TOKENS]
    for index in sorted(short, key=lambda each: len(streams[each].ids), reverse=True):
        stream = streams[index]
        count = len(packs[-1]) + 1 if packs else 1
        fits = (
            count * longest <= CHUNK_TOKENS
            and count * (prefix + longest) <= _CACHED_TOKENS
            and (rows + len(stream.rows)) * vocabulary <= CHUNK_LOGITS
        )
        if not packs or not fits:
            packs.append([])
            longest, rows = len(stream.ids) - prefix, 0
        packs[-1].append(index)
        rows += len(stream.rows)
    return [Pack(streams=tuple(each), prefix_tokens=prefix) for each in packs]
