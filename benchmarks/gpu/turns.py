"""Section 6: twenty turns in bfloat16, recorded and retraced, with the memory of each turn."""

import time
from dataclasses import asdict
from typing import Any

import torch

import tokentape as tt
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.conversation import record_turns, summary
from benchmarks.gpu.models import shaped_model
from benchmarks.machine import now_s
from benchmarks.stores import open_file_store
from tokentape.recorder.events import MemorySampled

_TURNS, _TOKENS = 20, 32
_TINY_TURNS, _TINY_TOKENS = 4, 6


def measure(bench: Bench) -> None:
    """Find the time of recording and of two retraces, their verdicts, and the memory."""
    lm = shaped_model(bench, "1.5B", torch.bfloat16)
    turns, tokens = (_TINY_TURNS, _TINY_TOKENS) if bench.tiny else (_TURNS, _TOKENS)
    bench.measure("fingerprint", timed_fingerprint, lm)
    with open_file_store(bench.folder / "turns.db") as store:
        record_turns(lm, store, turns=1, tokens=4)  # first calls of kernels
        began = now_s(bench.device)
        run_id = record_turns(lm, store, turns=turns, tokens=tokens)
        seconds = now_s(bench.device) - began
        bench.measure("recorded", dict, seconds=seconds, turns=turns, tokens=turns * tokens)
        recording = store.recording(run_id)
        for event in (each.event for each in recording.events()):
            if isinstance(event, MemorySampled):
                bench.measure("turn", asdict, event)
        for attempt in (1, 2):
            bench.measure("retrace", _retraced, bench, recording, lm, attempt=attempt)


def timed_fingerprint(lm: tt.LoadedModel) -> dict[str, Any]:
    """Return the seconds of reading and hashing the weights, once for each loaded model."""
    began = time.perf_counter()
    sha256 = lm.identity.weights_sha256
    return {"seconds": time.perf_counter() - began, "sha256": sha256}


def _retraced(bench: Bench, recording: tt.Recording, lm: tt.LoadedModel) -> dict[str, Any]:
    began = now_s(bench.device)
    report = tt.retrace(recording, lm)
    return summary(report) | {"seconds": now_s(bench.device) - began}
