"""Section 8: the memory that `plan_memory` reckons for a model of 8 B parameters, and the measured.

One step of that model is timed against `generate`, too.
"""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import tokentape as tt
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.models import shape_config, shaped_model
from benchmarks.gpu.speed import measured_steps
from benchmarks.gpu.turns import timed_fingerprint
from benchmarks.stores import EventList
from benchmarks.tiny_models import random_ids
from tokentape.generation import hf
from tokentape.recorder.events import MemorySampled

CASES = {
    "three turns": (6_287, 6_614, 12_783),
    "6,496 tokens after 6,287": (6_287, 12_783),
    "nothing cached": (12_783,),
}
"""The prompts, in tokens, of the run that this project began with; see docs/memory.md."""
_TINY_SHARE = 16
_NEW_TOKENS = 4
_ROUNDS = 8
_CHUNK = {"cuda": 2_048, "cpu": 512}
"""The defaults of `prefill_chunk_tokens`."""


def measure(bench: Bench) -> None:
    """Find planned and measured bytes of each case, and the milliseconds of a step."""
    plans = {
        name: bench.measure("plan", _planned, bench, each, case=name)
        for name, each in _cases(bench).items()
    }
    before = _in_use(bench.device)
    lm = shaped_model(bench, "8B", torch.bfloat16)
    bench.measure("weights", _weights, bench, lm, before)
    bench.measure("fingerprint", timed_fingerprint, lm)
    for name, each in _cases(bench).items():
        planned = [] if plans[name] is None else plans[name]["turns"]
        bench.measure(
            "measured",
            _measured,
            bench,
            lm,
            each,
            planned,
            case=name,
        )
    bench.measure("decode", measured_steps, bench, lm, 2 if bench.tiny else _ROUNDS)


def _cases(bench: Bench) -> dict[str, tuple[int, ...]]:
    if not bench.tiny:
        return CASES
    return {name: tuple(each // _TINY_SHARE for each in case) for name, case in CASES.items()}


def _planned(bench: Bench, prompts: Sequence[int]) -> dict[str, Any]:
    folder = bench.folder / "8B"
    shape_config("8B", tiny=bench.tiny).save_pretrained(folder)
    plan = tt.plan_memory(
        Path(folder) / "config.json",
        prompt_tokens=prompts,
        max_new_tokens=_NEW_TOKENS,
        device=f"{bench.device.type}:80GB",
        dtype="bfloat16",
        prefill_chunk_tokens=_CHUNK[bench.device.type],
    )
    return {
        "parameters": plan.parameters,
        "weights_bytes": plan.weights_bytes,
        "kv_bytes_per_1000_tokens": plan.kv_bytes_per_1000_tokens,
        "reserve_bytes": plan.reserve_bytes,
        "turns": [
            {
                "prompt_tokens": each.prompt_tokens,
                "computed_tokens": each.computed_tokens,
                "kv_bytes": each.kv_bytes,
                "transient_bytes": each.transient.total,
                "needed_bytes": each.needed_bytes,
            }
            for each in plan.turns
        ],
    }


def _weights(bench: Bench, lm: tt.LoadedModel, before: int) -> dict[str, Any]:
    model = lm.model
    tensors = (*model.parameters(), *model.buffers())
    return {
        "weights_bytes": hf.storage_bytes(iter(tensors)),
        "allocated_bytes": _in_use(bench.device) - before,
    }


def _measured(
    bench: Bench, lm: tt.LoadedModel, prompts: Sequence[int], planned: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Run a turn for each prompt; return its measured bytes and those of the plan."""
    # The cache of the case before is held by a cycle of references.
    gc.collect()
    if bench.cuda is not None:
        torch.cuda.empty_cache()
    weights = _in_use(bench.device)
    log = EventList()
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, tt.Recorder(log), identity=lm.identity)
    ids: list[int] = []
    for number, tokens in enumerate(prompts):
        ids += random_ids(tokens - len(ids), number)
        result = generator.generate(
            ids, max_new_tokens=_NEW_TOKENS, min_new_tokens=_NEW_TOKENS, do_sample=False
        )
        ids += result["generated_tokens"]
    sampled = [each for each in log.events if isinstance(each, MemorySampled)]
    turns = []
    for number, (tokens, event) in enumerate(zip(prompts, sampled, strict=True)):
        found: dict[str, Any] = {"prompt_tokens": tokens, "kv_bytes": event.kv_bytes}
        peak = event.device_peak_bytes
        if peak is None:
            found["transient_bytes"] = event.transient_bytes
        else:
            found |= {
                "peak_bytes": peak - weights,
                "reserved_bytes": event.device_reserved_bytes,
                "fragmented_bytes": event.device_fragmented_bytes,
                "driver_bytes": _outside_of_torch(bench.device),
            }
        if number < len(planned):
            of = planned[number]
            found["planned_bytes"] = of["kv_bytes"] + of["transient_bytes"]
        turns.append(found)
    return {"turns": turns}


def _in_use(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _outside_of_torch(device: torch.device) -> int:
    """Return the card's memory that is in use and not held by torch: CUDA's context, libraries."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free - torch.cuda.memory_reserved(device)
