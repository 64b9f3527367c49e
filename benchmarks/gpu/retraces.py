"""Section 5: retraces in other processes, and under other flags than recorded.

`retrace` sets the flags of the recording, so all of these must be `exact`. Each arm is also
recorded under its flags and retraced without them.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import tokentape as tt
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.conversation import record_turns, summary
from benchmarks.gpu.models import shaped_model
from benchmarks.stores import open_file_store
from tokentape.generation.numerics.float32_precision import (
    matmul_precision,
    set_matmul_precision,
)

_ROOT = Path(__file__).resolve().parents[2]
_TURNS, _TOKENS, _CHUNK = 6, 16, 64
_TINY_TURNS, _TINY_TOKENS = 2, 6
_FRESH_LIMIT_S = 60
_SHAPE = "small"


def measure(bench: Bench) -> None:
    """Find the verdict of a retrace in this process, in new ones, and under each arm of flags."""
    lm = shaped_model(bench, _SHAPE, bench.torch_dtype)
    path = bench.folder / f"retraces-{bench.dtype}.db"
    with open_file_store(path) as store:
        run_id = _record(bench, lm, store)
        recording = store.recording(run_id)
        bench.measure("retrace", _retraced_under, nullcontext, recording, lm, where="same process")
        whole = not bench.tiny or bench.dtype == "bfloat16"
        for name, variables in _PROCESSES.items() if whole else ():
            if not bench.tiny or not variables:
                process: tuple[Any, ...] = (bench, path, run_id, variables)
                bench.measure("retrace", _in_new_process, *process, where=name)
        for name, arm in _ARMS.items() if whole else ():
            now: tuple[Any, ...] = (arm, recording, lm)
            then: tuple[Any, ...] = (arm, bench, lm, store, recording)
            bench.measure("retrace", _retraced_under, *now, where=f"called under: {name}")
            bench.measure("retrace", _recorded_under, *then, where=f"recorded under: {name}")


WORKSPACE = "new process, deterministic cuBLAS workspace"
"""The one place where `exact` is not promised: the workspace cannot be set back in time."""
_PROCESSES: dict[str, dict[str, str]] = {
    "new process": {},
    "new process, TF32 forced off by a variable": {"NVIDIA_TF32_OVERRIDE": "0"},
    WORKSPACE: {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
}


@contextmanager
def _tf32() -> Iterator[None]:
    before = matmul_precision()
    set_matmul_precision("high")
    try:
        yield
    finally:
        set_matmul_precision(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def _other_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Arm = Callable[[], Any]
"""Returns a context in which torch has other flags."""
_ARMS: dict[str, Arm] = {
    "TF32": _tf32,
    "math attention": lambda: sdpa_kernel([SDPBackend.MATH]),
    "memory-efficient attention": lambda: sdpa_kernel(
        [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    ),
    "deterministic algorithms": _deterministic,
    "one more thread": _other_threads,
}


def _record(bench: Bench, lm: tt.LoadedModel, store: Any) -> str:
    turns, tokens = (_TINY_TURNS, _TINY_TOKENS) if bench.tiny else (_TURNS, _TOKENS)
    return record_turns(lm, store, turns=turns, tokens=tokens, prefill_chunk_tokens=_CHUNK)


def _retraced_under(arm: Arm, recording: tt.Recording, lm: tt.LoadedModel) -> dict[str, Any]:
    with arm():
        return summary(tt.retrace(recording, lm))


def _recorded_under(
    arm: Arm, bench: Bench, lm: tt.LoadedModel, store: Any, plain: tt.Recording
) -> dict[str, Any]:
    """Record under the flags, and retrace without them.

    Say how many rows of the recording differ from the `plain` one: those a wrong flag would change.
    """
    with arm():
        run_id = _record(bench, lm, store)
    recording = store.recording(run_id)
    return summary(tt.retrace(recording, lm)) | _differences(plain, recording)


def _differences(one: tt.Recording, other: tt.Recording) -> dict[str, Any]:
    """Count the log-probabilities that differ, up to the first token that is another one."""
    pairs = [
        pair
        for turns in zip(one.turns(), other.turns(), strict=True)
        for pair in zip(turns[0].tokens, turns[1].tokens, strict=True)
    ]
    same = next(
        (index for index, (a, b) in enumerate(pairs) if a.token_id != b.token_id), len(pairs)
    )
    nats = [abs(a.logprob - b.logprob) for a, b in pairs[:same]]
    return {
        "same_tokens_as_plain": same,
        "rows_unlike_plain": sum(each > 0 for each in nats),
        "worst_nats_from_plain": max(nats, default=0.0),
    }


def _in_new_process(
    bench: Bench, path: Path, run_id: str, variables: dict[str, str]
) -> dict[str, Any]:
    """Make the same model in a new process, and retrace the recording there."""
    asked = {
        "path": str(path),
        "run_id": run_id,
        "dtype": bench.dtype,
        "device": str(bench.device),
        "tiny": bench.tiny,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.retraces", json.dumps(asked)],
        cwd=_ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=_FRESH_LIMIT_S,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise RuntimeError(why[0])
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _retrace_here(asked: dict[str, Any]) -> dict[str, Any]:
    """Retrace a recording with a model that this process makes."""
    bench = Bench(
        device=torch.device(asked["device"]),
        tiny=asked["tiny"],
        dtype=asked["dtype"],
        folder=Path(asked["path"]).parent,
        found=lambda finding: None,
    )
    lm = shaped_model(bench, _SHAPE, bench.torch_dtype)
    with tt.open_store(asked["path"], must_exist=True) as store:
        return summary(tt.retrace(store.recording(asked["run_id"]), lm))


if __name__ == "__main__":
    signal.alarm(_FRESH_LIMIT_S)  # where the process that waits was killed
    sys.stdout.write(json.dumps(_retrace_here(json.loads(sys.argv[1]))) + "\n")
