"""Reckon the memory of a run before it begins, from configs and plans alone."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import cache_policy
from tokentape.generation.checks import check_count
from tokentape.generation.errors import ModelError
from tokentape.generation.hf import prefix_obstacle
from tokentape.generation.hf.tiny_twin import tiny_twin
from tokentape.generation.models.loading import load_tokenizer
from tokentape.generation.models.memory_check import free_bytes
from tokentape.generation.models.model_sizes import ModelSizes, meta_model, model_sizes
from tokentape.generation.models.packed_size import packed_bytes
from tokentape.generation.plans.files import load_plan
from tokentape.generation.plans.memory_plan import CacheUse, MemoryPlan, reckon_memory
from tokentape.generation.plans.plan import ExperimentPlan
from tokentape.generation.plans.turn_lengths import given_lengths, plan_lengths
from tokentape.generation.run_settings import CACHE_BYTES, default_chunk_tokens
from tokentape.recorder.events import CacheMode
from tokentape.recorder.listed_keywords import suggests_keywords

_SIZED = re.compile(r"(cpu|cuda):(\d+(?:\.\d+)?) ?([KMGT]i?B)", re.IGNORECASE)
_POWERS = "KMGT"


@suggests_keywords
def plan_memory(
    model: str | os.PathLike[str],
    *,
    protocol: str | os.PathLike[str] | ExperimentPlan = "demo",
    prompt_tokens: Sequence[int] = (),
    max_new_tokens: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    compute_dtype: str | None = None,
    quantization: str | None = None,
    attn_implementation: str | None = None,
    prefill_chunk_tokens: int | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> MemoryPlan:
    """Return the memory that an experiment plan needs with a model, without loading its weights.

    `model` is one that `load_model` takes, or a `config.json`; only its config is read. `protocol`
    is an experiment plan: its name, a YAML file, or one that is loaded. `prompt_tokens` are the
    lengths of prompts to reckon with in its place. `device` is `cpu` or `cuda`, whose free memory
    is then asked, or with a size, e.g. `cuda:24GiB`. `prefill_chunk_tokens` is by default that of
    a run on the device; 0 forwards a prompt at once. `quantization` is one of the short names of
    `load_model`: int8, int4, int2 or float8.
    Raise ModelError or PromptError, in one line, if one of them is not understood.

    Example:
        >>> import tokentape as tt
        >>> lm.model.save_pretrained(tmp_path)
        >>> plan = tt.plan_memory(tmp_path, prompt_tokens=(100, 180), device="cuda:24GiB")
        >>> plan.weights_bytes, plan.kv_bytes_per_1000_tokens, plan.turns_fit
        (509696, 768000, 2)
    """
    kind, device_bytes = device_memory(device)
    chunk = prefill_chunk_tokens
    if chunk is None:
        chunk = default_chunk_tokens(on_cuda=kind == "cuda")
    chunk = check_count("prefill_chunk_tokens", chunk, least=0)
    name = os.fspath(model)
    on_meta = meta_model(
        name, dtype=dtype, compute_dtype=compute_dtype, attn_implementation=attn_implementation
    )
    sizes = model_sizes(on_meta, name)
    if quantization is not None:
        sizes = replace(sizes, weights_bytes=packed_bytes(on_meta, quantization))
    if prompt_tokens:
        lengths = given_lengths(tuple(prompt_tokens), max_new_tokens or 500)
    else:
        plan = protocol if isinstance(protocol, ExperimentPlan) else load_plan(protocol)
        lengths = plan_lengths(
            plan.with_overrides(max_new_tokens=max_new_tokens),
            on_meta,
            _tokenizer(name),
            context_tokens=sizes.context_tokens,
        )
    return reckon_memory(
        sizes,
        cache_use(on_meta, sizes),
        lengths.turns,
        device=kind,
        device_bytes=device_bytes,
        prefill_chunk_tokens=chunk or None,
        cache_bytes=cache_bytes,
        system_tokens=lengths.system_tokens,
        notes=(*lengths.notes, *_notes(on_meta, sizes)),
    )


def device_memory(device: str) -> tuple[str, int]:
    """Return the kind of a device, `cpu` or `cuda`, and the bytes of memory that a run may use.

    Without a size it is the memory that is free now. Raise ModelError if there is no such device.
    """
    sized = _SIZED.fullmatch(device.strip())
    if sized is not None:
        kind, number, unit = sized.groups()
        base = 1024 if "i" in unit.lower() else 1000
        return kind.lower(), int(float(number) * base ** (1 + _POWERS.index(unit[0].upper())))
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device.strip()):
        raise ModelError(
            f"there is no device {device!r}: use cpu, cuda, or one with its memory, as cuda:24GiB"
        )
    asked = torch.device(device.strip())
    if asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"there is no GPU {device!r} here: give its memory, as cuda:24GiB")
    return asked.type, free_bytes(asked)


def cache_use(model: Any, sizes: ModelSizes) -> CacheUse:
    """Return how a run uses the caches of a model on torch's meta device.

    A tiny model of the same class is probed in its place.
    """
    plain = all(each.grows_in_place for each in sizes.layers)
    use = CacheUse(reuses=True, snapshots=not plain, splits_prefill=True)
    if prefix_obstacle(model) is not None:
        return CacheUse(reuses=False, snapshots=False, splits_prefill=False)
    twin = tiny_twin(model)
    try:
        policy = cache_policy(twin) if twin is not None else None
    except Exception:  # a tiny model of sizes that its class does not know may raise anything
        policy = None
    if policy is None:
        return use
    return CacheUse(
        reuses=policy.mode != CacheMode.NONE,
        snapshots=policy.mode == CacheMode.SNAPSHOTS,
        splits_prefill=policy.splits_prefill,
    )


def _notes(model: Any, sizes: ModelSizes) -> Iterator[str]:
    """Yield the facts that a config leaves open, a sentence each."""
    if sizes.forward.recurrent_states:
        yield "the transient memory of recurrent layers depends on the kernels that are installed"
    if getattr(model.config, "quantization_config", None):
        yield f"the checkpoint is quantized, and its weights are counted in {sizes.dtype}"


def _tokenizer(name: str) -> PreTrainedTokenizerBase | None:
    folder = str(Path(name).parent) if name.endswith(".json") else name
    try:
        return load_tokenizer(folder)
    except ModelError:
        return None
