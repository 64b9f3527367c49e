"""Engines of transformers: a bare forward loop, `generate` on a padded batch, `generate_batch`."""

import importlib
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig

import tokentape as tt
from benchmarks.generation.forward_timer import ForwardTimer
from benchmarks.peers.token_times import TokenTimes
from benchmarks.peers.workload import NO_END, SAMPLING, DecodeTask
from tokentape.generation import hf

_PAGE_TOKENS = 256
_BATCH_TOKENS = 512
"""Tokens of a forward of `generate_batch`. On a CPU it decodes about twice as fast as with its
default, because a masked forward attends over everything that could fit into it.
"""


def forward_loop(lm: tt.LoadedModel, ids: Sequence[int], new_tokens: int) -> TokenTimes:
    """Decode one sequence greedily with the model's forward and nothing else."""
    model: Any = lm.model
    name = hf.caches.cache_name(model)
    cache = DynamicCache(config=model.config)
    step = torch.tensor([list(ids)])
    at_s = []
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(new_tokens):
            output = model(step, **{name: cache}, logits_to_keep=1)
            step = output.logits[:, -1].argmax(-1, keepdim=True)
            at_s.append(time.perf_counter())
    return TokenTimes(began_s=began, ended_s=at_s[-1], at_s=(tuple(at_s),))


def generate_padded(
    lm: tt.LoadedModel, tasks: Sequence[DecodeTask], new_tokens: int, **sampling: Any
) -> TokenTimes:
    """Generate for all tasks in one call, prompts padded on the left to the longest."""
    model: Any = lm.model
    width = max(len(each.ids) for each in tasks)
    padding = int(lm.tokenizer.pad_token_id or 0)
    ids = torch.full((len(tasks), width), padding)
    mask = torch.zeros_like(ids)
    for row, task in enumerate(tasks):
        ids[row, width - len(task.ids) :] = torch.tensor(task.ids)
        mask[row, width - len(task.ids) :] = 1
    with ForwardTimer(model) as forwards, torch.random.fork_rng(devices=[]):
        torch.manual_seed(tasks[0].seed)
        began = time.perf_counter()
        model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            eos_token_id=NO_END,
            pad_token_id=padding,
            **sampling or SAMPLING,
        )
        ended = time.perf_counter()
        seen = forwards.drain()
    # A token is there when the forward that it goes into begins, the last one at the end.
    times = (*(each.began_s for each in seen[1:]), ended)
    return TokenTimes(began_s=began, ended_s=ended, at_s=(times,) * len(tasks))


def generate_continuous(
    lm: tt.LoadedModel, tasks: Sequence[DecodeTask], new_tokens: int
) -> TokenTimes:
    """Generate with continuous batching: `generate_batch`, with a cache as large as it needs.

    By default it would take most of the free memory first, which takes longer than generating.
    Raise RuntimeError if a sequence is missing or has an error.
    """
    model: Any = lm.model
    settings: Any = importlib.import_module("transformers.generation.configuration_utils")
    blocks = sum(-(-(len(each.ids) + new_tokens) // _PAGE_TOKENS) for each in tasks)
    config = GenerationConfig(
        max_new_tokens=new_tokens, eos_token_id=NO_END, pad_token_id=0, **SAMPLING
    )  # type: ignore[no-untyped-call]
    kernel = model.config._attn_implementation
    began = time.perf_counter()
    try:
        outputs = model.generate_batch(
            [list(each.ids) for each in tasks],
            generation_config=config,
            continuous_batching_config=settings.ContinuousBatchingConfig(
                page_size=_PAGE_TOKENS,
                num_blocks=blocks + len(tasks),
                max_batch_tokens=_BATCH_TOKENS,
                seed=tasks[0].seed,
            ),
            warmup=False,
            record_timestamps=True,
        )
    finally:
        model.set_attn_implementation(kernel)
    ended = time.perf_counter()
    made = list(outputs.values())
    wrong = next((each.error for each in made if each.error), "")
    counts = [len(each.generated_tokens) for each in made]
    if wrong or counts != [new_tokens] * len(tasks):
        raise RuntimeError(f"generate_batch returned {counts} tokens; {wrong or 'no error'}")
    return TokenTimes(
        began_s=began, ended_s=ended, at_s=tuple(tuple(each.timestamps) for each in made)
    )
