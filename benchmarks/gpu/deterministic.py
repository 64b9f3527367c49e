"""Section 5, continued: what `load_model(deterministic=True)` costs, and its retraces."""

from pathlib import Path
from statistics import median
from typing import Any

import torch

import tokentape as tt
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.conversation import record_turns, summary
from benchmarks.gpu.models import shaped_model
from benchmarks.machine import now_s
from benchmarks.stores import open_file_store
from benchmarks.tiny_models import random_ids

_ROUNDS, _TOKENS, _CONTEXT = 20, 12, 64
_TINY_ROUNDS = 3
_DTYPES = ("float32", "bfloat16")


def measure(bench: Bench) -> None:
    """Find the milliseconds of a step with and without, and whether retraces are exact."""
    folder = bench.folder / "deterministic"
    # Made on the CPU: the workspace of cuBLAS is chosen before CUDA is initialised.
    on_cpu = Bench(
        device=torch.device("cpu"), tiny=bench.tiny, dtype="", folder=folder, found=bench.found
    )
    made = shaped_model(on_cpu, "small", torch.float32)
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    for dtype in _DTYPES:
        bench.measure("step", _steps, bench, folder, dtype, dtype=dtype)
        for now in ("on", "off"):
            bench.measure(
                "retrace",
                _retraced,
                bench,
                folder,
                dtype,
                now,
                dtype=dtype,
                recorded="on",
                now=now,
            )


def _loaded(bench: Bench, folder: Path, dtype: str) -> tt.LoadedModel:
    return tt.load_model(folder, dtype=dtype, device=str(bench.device), deterministic=True)


def _steps(bench: Bench, folder: Path, dtype: str) -> dict[str, Any]:
    """Time short replies, in turn with deterministic kernels and without."""
    lm = _loaded(bench, folder, dtype)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, identity=lm.identity)
    step_ms: dict[bool, list[float]] = {True: [], False: []}
    tokens: dict[bool, list[int]] = {}
    for number in range((_TINY_ROUNDS if bench.tiny else _ROUNDS) + 1):
        for on in (True, False) if number % 2 else (False, True):
            torch.use_deterministic_algorithms(on, warn_only=True)
            began = now_s(bench.device)
            result = generator.generate(
                random_ids(_CONTEXT, 1),
                max_new_tokens=_TOKENS,
                min_new_tokens=_TOKENS,
                do_sample=True,
                seed=3,
            )
            if number:  # the first round warms up
                step_ms[on].append((now_s(bench.device) - began) * 1000.0 / _TOKENS)
            tokens[on] = result["generated_tokens"]
    return {
        "deterministic_ms": median(step_ms[True]),
        "plain_ms": median(step_ms[False]),
        "deterministic_least_ms": min(step_ms[True]),
        "plain_least_ms": min(step_ms[False]),
        "same_tokens": tokens[True] == tokens[False],
    }


def _retraced(bench: Bench, folder: Path, dtype: str, now: str) -> dict[str, Any]:
    """Record with deterministic kernels, and retrace after switching them on or off."""
    lm = _loaded(bench, folder, dtype)
    with open_file_store(folder / f"{dtype}-{now}.db") as store:
        run_id = record_turns(lm, store, turns=2, tokens=_TOKENS)
        torch.use_deterministic_algorithms(now == "on", warn_only=True)
        return summary(tt.retrace(store.recording(run_id), lm))
