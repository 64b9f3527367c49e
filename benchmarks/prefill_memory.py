"""What a prefill takes: peak memory while it runs, over what was there before it.

The model is one layer with the heads of Llama-3-8B and a small rest: layers come one after the
other, so that what attention takes is there once.

On a CPU each figure is that of a process of its own, whose peak of resident memory is set back
just before the prefill: `python -m benchmarks.prefill_memory` with a prefill as JSON.
"""

import gc
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tokentape as tt
from tokentape.generation import hf
from tokentape.generation.run_settings import PREFILL_CHUNK_TOKENS

HEADS, HEAD_DIM, HEADS_PER_KV_HEAD = 32, 128, 4
BYTES = 2
"""Of a bfloat16."""

# Bytes that eager attention takes for each score, generously: softmax is computed in float32
# beside two copies in bfloat16.
_EAGER_BYTES = 12
_STATUS = Path("/proc/self/status")
_CLEAR_PEAK = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """New tokens behind held ones; `chunk_tokens` None is one forward."""

    held_tokens: int
    new_tokens: int
    attention: str
    chunk_tokens: int | None = None
    heads: int = HEADS
    head_dim: int = HEAD_DIM

    @property
    def kv_heads(self) -> int:
        return max(1, self.heads // HEADS_PER_KV_HEAD)

    @property
    def total_tokens(self) -> int:
        return self.held_tokens + self.new_tokens

    @property
    def score_bytes(self) -> int:
        """One score tensor of the whole prefill: heads x queries x keys in bfloat16."""
        return self.heads * self.new_tokens * self.total_tokens * BYTES

    @property
    def kept_bytes(self) -> int:
        """Keys and values of the new tokens: in the peak, but they stay."""
        return 2 * self.kv_heads * self.head_dim * self.new_tokens * BYTES

    def model(self) -> str:
        return f"{self.heads} heads and {self.kv_heads} KV heads of {self.head_dim}, bfloat16"

    def described(self) -> str:
        forwards = "one forward"
        if self.chunk_tokens is not None:
            forwards = f"{self.chunk_tokens}-token chunks"
        return f"{self.attention}, {forwards}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transient:
    """What a prefill took. `measured_bytes` are by number of heads; see `at_full_heads`."""

    prefill: Prefill
    measured_bytes: dict[int, int]

    @property
    def at_full_heads(self) -> int:
        """What was measured, or the line through the two measured numbers of heads."""
        heads = self.prefill.heads
        if heads in self.measured_bytes:
            return self.measured_bytes[heads]
        (few, low), (more, high) = sorted(self.measured_bytes.items())
        return high + round((high - low) * (heads - more) / (more - few))

    @property
    def how(self) -> str:
        if self.prefill.heads in self.measured_bytes:
            return f"measured with {self.prefill.heads} heads"
        points = ", ".join(
            f"{heads}: {size / 1e9:.2f} GB" for heads, size in sorted(self.measured_bytes.items())
        )
        return f"line through heads {points}"


def turn_3(
    *,
    system_tokens: int,
    prompt_tokens: int,
    heads: int = HEADS,
    chunk_tokens: int = PREFILL_CHUNK_TOKENS,
) -> list[Prefill]:
    """Turn 3 of the plan: all of it, what is behind the system prompt, what is behind turn 2."""
    history_tokens = system_tokens + round((prompt_tokens - system_tokens) * 2 / 3)
    ways = (("eager", None), ("sdpa", None), ("sdpa", chunk_tokens))
    prefills = [
        Prefill(
            held_tokens=held,
            new_tokens=prompt_tokens - held,
            attention=attention,
            chunk_tokens=chunk,
            heads=heads,
        )
        for held in (0, system_tokens)
        for attention, chunk in ways
    ]
    ours = replace(
        prefills[-1], held_tokens=history_tokens, new_tokens=prompt_tokens - history_tokens
    )
    return [*prefills, ours]


def measure_transient(
    prefill: Prefill, device: torch.device, *, room_bytes: int | None = None
) -> Transient:
    """With all heads where that fits into half of what is free, else with two smaller numbers."""
    room = _free_bytes(device) // 2 if room_bytes is None else room_bytes
    counts = [prefill.heads]
    if prefill.attention == "eager":
        fits = prefill.heads
        while fits > 2 and replace(prefill, heads=fits).score_bytes // BYTES * _EAGER_BYTES > room:
            fits //= 2
        if fits < prefill.heads:
            counts = [fits // 2, fits]
    measured = {}
    for heads in counts:
        each = replace(prefill, heads=heads)
        on_cpu = device.type == "cpu"
        measured[heads] = _in_a_child(each) if on_cpu else transient_bytes(each, device)
    return Transient(prefill=prefill, measured_bytes=measured)


def transient_bytes(prefill: Prefill, device: torch.device) -> int:
    """The peak of memory while the prefill runs, over what was there before."""
    model = _one_layer(prefill).to(device)
    config = hf.effective_config(model)
    ids = torch.arange(prefill.total_tokens, device=device)[None] % model.config.vocab_size
    # Libraries take their own room in the first forward.
    hf.Decoder(model, config, ids[:, :8], hf.new_cache(model)).prefill()
    cache = hf.new_cache(model)
    if prefill.held_tokens:
        shape = (1, prefill.kv_heads, prefill.held_tokens, prefill.head_dim)
        states = torch.randn(shape, dtype=torch.bfloat16, device=device)
        hf.put_states(cache, [(states, states)])
        del states
    decoder = hf.Decoder(model, config, ids, cache, held=prefill.held_tokens)
    gc.collect()
    before = _start_peak(device)
    decoder.prefill(prefill.chunk_tokens)
    return _peak_bytes(device) - before


def _one_layer(prefill: Prefill) -> Any:
    settings: dict[str, Any] = {
        "vocab_size": 256,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 1,
        "num_attention_heads": prefill.heads,
        "num_key_value_heads": prefill.kv_heads,
        "head_dim": prefill.head_dim,
        "max_position_embeddings": prefill.total_tokens + 1,
        "attn_implementation": prefill.attention,
    }
    model: Any = LlamaForCausalLM(LlamaConfig(**settings))
    return model.eval().to(torch.bfloat16)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _start_peak(device: torch.device) -> int:
    """Count the peak from here; the bytes that are taken now."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        _CLEAR_PEAK.write_text("5")
    except OSError as error:
        raise tt.ModelError(f"peak memory is measured on Linux only: {error}") from None
    return _status_bytes("VmRSS")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


def _in_a_child(prefill: Prefill) -> int:
    command = [sys.executable, "-m", "benchmarks.prefill_memory", json.dumps(asdict(prefill))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise tt.ModelError(f"{prefill.described()} could not be measured: {why[0]}")
    return int(done.stdout)


if __name__ == "__main__":
    sys.stdout.write(f"{transient_bytes(Prefill(**json.loads(sys.argv[1])), torch.device('cpu'))}")
