"""Transient memory is reckoned close to what is measured."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tokentape.generation.hf import grown_capacity
from tokentape.generation.models.forward_memory import (
    ForwardShape,
    prefill_bytes,
    transient_bytes,
)

ROOT = Path(__file__).resolve().parents[2]
FACTOR = 1.5
"""How far an estimate may be from a measurement; see docs/memory.md."""
BENCHMARK = ForwardShape(
    hidden=256,
    mlp=512,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocabulary=256,
    item_bytes=2,
    eager=False,
    last_logits_only=True,
    windowed=False,
    recurrent_states=0,
)
"""The model of benchmarks/generation/prefill_memory.py."""
SMOLLM2 = replace(
    BENCHMARK, hidden=576, mlp=1536, heads=9, kv_heads=3, head_dim=64, vocabulary=49152
)
SCRIPT = """
import json, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
import tokentape as tt
from benchmarks.tiny_models import VOCABULARY, byte_tokenizer
from tokentape.generation.models.forward_memory import forward_shape, prefill_bytes
from tokentape.recorder.events import CacheDecided, MemorySampled, SystemPromptCached

torch.set_num_threads(1)
dtype, attention = sys.argv[1:]
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
    num_attention_heads=16, num_key_value_heads=4, head_dim=64, max_position_embeddings=16384,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation=attention,
)).eval().to(getattr(torch, dtype))
lm = tt.LoadedModel(model, byte_tokenizer(), "small")
with tt.open_store("sqlite://") as store:
    with tt.Investigation(lm, store=store, name="memory", system_prompt="Be brief.") as run:
        for length in (600, 1800, 1800):
            run.chat("w" * length, max_new_tokens=2)
    events = [each.event for each in store.recording(run.run_id).events()]
stored = 0
for event in events:
    if isinstance(event, CacheDecided):
        decided = event
    if isinstance(event, SystemPromptCached):
        stored = event.kv_bytes
    if isinstance(event, MemorySampled):
        reckoned = prefill_bytes(
            forward_shape(model), computed_tokens=decided.computed_tokens,
            total_tokens=decided.prompt_tokens, forward_tokens=512,
        ).total
        new_buffers = event.kv_bytes if event.kv_bytes > stored else 0
        print(json.dumps([reckoned + new_buffers, event.transient_bytes]))
        stored = event.kv_bytes
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells peaks")
@pytest.mark.parametrize(
    ("dtype", "attention"),
    [
        ("float32", "sdpa"),
        pytest.param("bfloat16", "sdpa", marks=pytest.mark.slow),
        pytest.param("float32", "eager", marks=pytest.mark.slow),
    ],
)
def test_a_turn_takes_what_is_reckoned(dtype: str, attention: str) -> None:
    # What is freed goes back at once: else the process keeps it, and a peak hides in it.
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", SCRIPT, dtype, attention]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    turns = [json.loads(line) for line in done.stdout.splitlines()]

    # The first turn also allocates what libraries keep.
    for reckoned, measured in turns[1:]:
        assert measured / FACTOR <= reckoned <= measured * FACTOR
    assert len(turns) == 3


def rows_of(heading: str) -> list[list[str]]:
    """Return the cells of the rows of a table in docs/memory.md."""
    text = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8").partition(heading)[2]
    rows = text.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def number(text: str) -> float:
    return float(re.match(r"[\d,.]+", text)[0].rstrip(",").replace(",", ""))  # type: ignore[index]


def test_the_prefills_of_the_docs_are_reckoned_so() -> None:
    rows = rows_of("| prefill | reckoned, GB | measured, GB |")
    for label, reckoned, measured in rows:
        new, held = (int(each.replace(",", "")) for each in re.findall(r"[\d,]*\d", label)[:2])
        total = prefill_bytes(
            replace(BENCHMARK, eager="eager" in label),
            computed_tokens=new,
            total_tokens=new + held,
            forward_tokens=512 if "chunks" in label else new,
        ).total
        assert f"{total / 1e9:.2f}" == reckoned
        assert number(measured) / FACTOR <= number(reckoned) <= number(measured) * FACTOR
    assert len(rows) == 7


def test_the_prefills_on_cuda_of_the_docs_are_reckoned_so() -> None:
    rows = rows_of("| dtype, chunk | reckoned, MiB | measured, MiB |")
    for label, reckoned, measured in rows:
        dtype, _, chunk = label.partition(", ")
        size = 4 if dtype == "float32" else 2
        most = _peak_on_cuda(
            replace(SMOLLM2, item_bytes=size), 4000, 4000 if "one" in chunk else int(number(chunk))
        )
        assert f"{most / 1024**2:,.0f}" == reckoned
        assert number(measured) / FACTOR <= number(reckoned) <= number(measured) * FACTOR
    assert len(rows) == 8


def _peak_on_cuda(shape: ForwardShape, tokens: int, chunk: int) -> int:
    """Return the most bytes of KV cache, of 30 layers, and transient memory in a prefill."""
    held = room = most = 0
    while held < tokens:
        new = min(chunk, tokens - held)
        held += new
        room = room if room >= held else grown_capacity(held)
        kv = 30 * 2 * shape.kv_heads * shape.head_dim * shape.item_bytes * room
        forward = transient_bytes(shape, new_tokens=new, total_tokens=held, on_cuda=True)
        most = max(most, kv + forward.total)
    return most
