"""The numbers of rows that forwards of a batch have."""

import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from tokentape.generation import hf

_CANDIDATES = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_PROBES = 2
"""Each number of rows is timed so often, and its shortest time counts."""


@dataclass(frozen=True, slots=True)
class RowCounts:
    """The numbers of rows to forward, by the times of a probe.

    Matrix libraries can be slower for some numbers of rows than for a larger one, which then is
    filled with copies. Few numbers also mean few changes to record.
    """

    durations_us: Mapping[int, int]
    """By number of rows, in ascending order: the time of a forward of one token each."""

    @property
    def rows_max(self) -> int:
        """The most sequences that one forward has."""
        return max(self.durations_us)

    def fitting(self, sequences: int) -> int:
        """Return the number of rows of the fastest forward that has room for so many sequences."""
        rows = list(self.durations_us)
        return min(rows[bisect_left(rows, sequences) :], key=self.durations_us.__getitem__)


def probe_row_counts(model: Any, shared: hf.SharedForwards, size: int) -> RowCounts:
    """Time forwards of a model for up to `size` sequences. The caller uses the model alone."""
    candidates = sorted({each for each in _CANDIDATES if each < size} | {size})
    # One more may be faster than the size itself.
    candidates += [each for each in _CANDIDATES if each > size][:1]
    step = short_sequence(model, length=2)
    steps = [forked_sequence(model, step) for _ in range(size)]
    return RowCounts({rows: _duration_us(shared, steps[:rows], rows) for rows in candidates})


def short_sequence(model: Any, *, length: int) -> hf.SequenceStep:
    """Return a sequence of one repeated token, whose last token is to be forwarded."""
    # transformers warns of prompts with a token that pads.
    token_id = length if model.config.pad_token_id != length else 0
    ids = torch.full((1, length + 1), token_id, dtype=torch.long, device=model.device)
    decoder = hf.Decoder(model, GenerationConfig(), ids[:, :length], hf.new_cache(model))  # type: ignore[no-untyped-call]
    decoder.prefill()
    return hf.SequenceStep(decoder, ids)


def forked_sequence(model: Any, step: hf.SequenceStep) -> hf.SequenceStep:
    """Return a sequence with the tokens of another one and a copy of its cache."""
    prompt = step.ids[:, :-1]
    cache = hf.fork(step.decoder.cache)
    decoder = hf.Decoder(model, GenerationConfig(), prompt, cache, held=prompt.shape[1])  # type: ignore[no-untyped-call]
    return hf.SequenceStep(decoder, step.ids)


def _duration_us(shared: hf.SharedForwards, steps: list[hf.SequenceStep], rows: int) -> int:
    durations = []
    for _ in range(_PROBES):
        began = time.perf_counter()
        logits = shared.forward(steps, rows=rows, places=range(len(steps)))
        # A transfer waits for the device.
        logits[0].max().item()
        durations.append(time.perf_counter() - began)
    return round(min(durations) * 1e6)
