"""Sections 2 and 3: every replay, the noise floor, and `generate`, over families of models."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import tokentape as tt
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.conversation import summary
from benchmarks.gpu.models import family_model
from benchmarks.parity.matrix import run_matrix
from benchmarks.replay.fault_case import record_case
from benchmarks.tiny_models import FAMILIES

_TOKENS = 24
_SAMPLERS = ("greedy", "everything")
_STARTS = ("fresh", "reuse", "crop")
_TINY_FAMILIES = ("llama", "qwen3-next")


def measure(bench: Bench) -> None:
    """Find the verdicts of four turns with a tool, and the cells against `generate`."""
    families = _TINY_FAMILIES if bench.tiny else tuple(FAMILIES)
    for family in families:
        bench.measure("family", _replay, bench, family, family=family)
    for family in families:
        bench.measure("generate", _against_generate, bench, family, family=family)


def _replay(bench: Bench, family: str) -> dict[str, Any]:
    """Record four turns and store a finding for each replay of them."""
    lm = family_model(bench, family, bench.torch_dtype)
    recording = record_case(lm, tokens=8 if bench.tiny else _TOKENS).recording

    def find(what: str, measured: Callable[[], dict[str, Any]]) -> None:
        bench.measure(what, measured, family=family)

    find("retrace", lambda: summary(tt.retrace(recording, lm)))
    find("rebuild", lambda: {"turns": len(tt.rebuild(recording).turns)})
    floor = bench.measure("floor", tt.calibrate, recording, lm, family=family)
    find("verify", lambda: summary(tt.verify(recording, lm, floor=floor)))
    find("regenerate", lambda: summary(tt.regenerate(recording, lm, floor=floor)))
    policy = tt.cache_policy(lm.model)
    tokens = sum(len(turn.tokens) for turn in recording.turns())
    return {"tokens": tokens, "cache": policy.mode.value}


def _against_generate(bench: Bench, family: str) -> dict[str, Any]:
    """Count the cells whose logits, tokens and end state equal those of `generate`."""
    cells = list(
        run_matrix(
            [family],
            [bench.dtype],
            _SAMPLERS,
            _STARTS[:2] if bench.tiny else _STARTS,
            device=bench.device,
        )
    )
    compared = [each for each in cells if each.bitwise is not None]
    return {
        "cells": len(cells),
        "compared": len(compared),
        "same_bits": sum(bool(each.bitwise) for each in compared),
        "same_tokens_as_fresh": sum(bool(each.same_tokens_as_fresh) for each in cells),
        "not_passing": [asdict(each) for each in cells if not each.passes],
    }
