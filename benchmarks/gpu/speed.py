"""Section 7: a recorded decoding step against `generate`, in many short rounds.

The speed of a host can change by more than the engines differ, for seconds at a time. So the
engines reply in turn, replies are short, and medians and minima are reported.
"""

from dataclasses import asdict
from statistics import median
from typing import Any

import torch

import tokentape as tt
from benchmarks.generation.decode import DecodeComparison, DecodeFigures, measure_decode
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.models import shaped_model
from tokentape.generation.numerics.attention import repeatable_attention

_CONTEXT, _TOKENS, _ROUNDS = 64, 12, 40
_TINY_ROUNDS = 3


def measure(bench: Bench) -> None:
    """Find the milliseconds of a step, and those of recording a token, with 1.5 B parameters."""
    lm = shaped_model(bench, "1.5B", torch.bfloat16)
    rounds = _TINY_ROUNDS if bench.tiny else _ROUNDS
    bench.measure("decode", measured_steps, bench, lm, rounds)


def measured_steps(bench: Bench, lm: tt.LoadedModel, rounds: int) -> dict[str, Any]:
    """Store a finding for each sampler, and return the cost of recording."""
    folder = bench.folder / f"decode-{lm.name}"
    folder.mkdir()
    # `generate` of the caller would use cuDNN's attention, and give other bits each time.
    with repeatable_attention(bench.cuda):
        (figures,) = measure_decode(
            lm, folder, contexts=(_CONTEXT,), new_tokens=_TOKENS, rounds=rounds
        )
    for each in figures.comparisons:
        bench.measure("step", _step, each, shape=lm.name, sampler=each.sampler)
    return {"shape": lm.name, "rounds": rounds, **_cost(figures)}


def _step(compared: DecodeComparison) -> dict[str, Any]:
    return {
        "tokentape_ms": median(compared.our_ms),
        "generate_ms": median(compared.their_ms),
        "tokentape_least_ms": min(compared.our_ms),
        "generate_least_ms": min(compared.their_ms),
        "tokentape_most_ms": max(compared.our_ms),
        "generate_most_ms": max(compared.their_ms),
        "generate_over_tokentape": median(compared.ratios),
        "same_tokens": compared.same_tokens,
    }


def _cost(figures: DecodeFigures) -> dict[str, Any]:
    return asdict(figures.cost) | {"record_share": figures.cost.record_share}
