"""Transient memory of a prefill: the peak while it runs, minus the memory used before it.

The model has one layer with the attention heads of Llama-3-8B and is otherwise small. Layers run
one after the other, so the transient memory of attention is that of one layer.

On a CPU each prefill runs in its own process, `python -m benchmarks.generation.prefill_memory` with
a prefill as JSON, which resets its peak of resident memory just before the prefill.
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
"""Bytes of a bfloat16 number."""

# An upper estimate of the bytes that eager attention needs for each score: softmax in float32, and
# two copies in bfloat16.
_EAGER_BYTES = 12
_STATUS = Path("/proc/self/status")
_CLEAR_PEAK = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """A prefill of new tokens after cached ones."""

    cached_tokens: int
    new_tokens: int
    attention: str
    chunk_tokens: int | None = None
    """Tokens of a forward; None forwards all new tokens at once."""
    heads: int = HEADS
    head_dim: int = HEAD_DIM

    @property
    def kv_heads(self) -> int:
        """Return the number of key-value heads."""
        return max(1, self.heads // HEADS_PER_KV_HEAD)

    @property
    def total_tokens(self) -> int:
        """Return the number of cached and new tokens."""
        return self.cached_tokens + self.new_tokens

    @property
    def score_bytes(self) -> int:
        """Return the bytes of one score tensor: heads x queries x keys in bfloat16."""
        return self.heads * self.new_tokens * self.total_tokens * BYTES

    @property
    def kv_bytes(self) -> int:
        """Return the bytes of the new keys and values, which remain after the prefill."""
        return 2 * self.kv_heads * self.head_dim * self.new_tokens * BYTES

    def model(self) -> str:
        """Return a line that describes the model."""
        return f"{self.heads} heads and {self.kv_heads} KV heads of {self.head_dim}, bfloat16"

    def label(self) -> str:
        """Return a line that describes the attention and the chunks."""
        forwards = "one forward"
        if self.chunk_tokens is not None:
            forwards = f"{self.chunk_tokens}-token chunks"
        return f"{self.attention}, {forwards}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransientMemory:
    """The transient memory of a prefill, measured with one or two numbers of heads."""

    prefill: Prefill
    measured_bytes: dict[int, int]
    """Transient bytes by number of heads."""

    @property
    def at_full_heads(self) -> int:
        """Return the bytes with all heads: measured, or extrapolated linearly from two numbers."""
        heads = self.prefill.heads
        if heads in self.measured_bytes:
            return self.measured_bytes[heads]
        (few, low), (more, high) = sorted(self.measured_bytes.items())
        return high + round((high - low) * (heads - more) / (more - few))

    @property
    def how(self) -> str:
        """Return a line that says how `at_full_heads` came about."""
        if self.prefill.heads in self.measured_bytes:
            return f"measured with {self.prefill.heads} heads"
        points = ", ".join(
            f"{heads}: {size / 1e9:.2f} GB" for heads, size in sorted(self.measured_bytes.items())
        )
        return f"line through heads {points}"


def turn_3_prefills(
    *,
    system_tokens: int,
    prompt_tokens: int,
    heads: int = HEADS,
    chunk_tokens: int = PREFILL_CHUNK_TOKENS,
) -> list[Prefill]:
    """Return the prefills of the plan's turn 3 to compare.

    They have nothing cached, the system prompt cached, and (tokentape) turns 1 and 2 cached.
    """
    history_tokens = system_tokens + round((prompt_tokens - system_tokens) * 2 / 3)
    variants = (("eager", None), ("sdpa", None), ("sdpa", chunk_tokens))
    prefills = [
        Prefill(
            cached_tokens=held,
            new_tokens=prompt_tokens - held,
            attention=attention,
            chunk_tokens=chunk,
            heads=heads,
        )
        for held in (0, system_tokens)
        for attention, chunk in variants
    ]
    ours = replace(
        prefills[-1], cached_tokens=history_tokens, new_tokens=prompt_tokens - history_tokens
    )
    return [*prefills, ours]


def measure_transient(
    prefill: Prefill, device: torch.device, *, room_bytes: int | None = None
) -> TransientMemory:
    """Measure a prefill with all heads, or with two smaller numbers if all do not fit.

    The limit is `room_bytes`, by default half of the free memory. Raise ModelError if the peak of
    memory cannot be measured.
    """
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
        measured[heads] = _measure_in_subprocess(each) if on_cpu else transient_bytes(each, device)
    return TransientMemory(prefill=prefill, measured_bytes=measured)


def transient_bytes(prefill: Prefill, device: torch.device) -> int:
    """Return the peak of memory during the prefill, minus the memory used before it."""
    model = _one_layer(prefill).to(device)
    config = hf.effective_config(model)
    ids = torch.arange(prefill.total_tokens, device=device)[None] % model.config.vocab_size
    # The first forward allocates the workspaces of libraries.
    hf.Decoder(model, config, ids[:, :8], hf.new_cache(model)).prefill()
    cache = hf.new_cache(model)
    if prefill.cached_tokens:
        shape = (1, prefill.kv_heads, prefill.cached_tokens, prefill.head_dim)
        states = torch.randn(shape, dtype=torch.bfloat16, device=device)
        hf.put_states(cache, [(states, states)])
        del states
    decoder = hf.Decoder(model, config, ids, cache, held=prefill.cached_tokens)
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
    """Reset the peak; return the bytes in use."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        _CLEAR_PEAK.write_text("5")
    except OSError as error:
        raise tt.ModelError(f"peak memory can be measured on Linux only: {error}") from None
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


def _measure_in_subprocess(prefill: Prefill) -> int:
    command = [
        sys.executable,
        "-m",
        "benchmarks.generation.prefill_memory",
        json.dumps(asdict(prefill)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise tt.ModelError(f"{prefill.label()} could not be measured: {why[0]}")
    return int(done.stdout)


if __name__ == "__main__":
    sys.stdout.write(f"{transient_bytes(Prefill(**json.loads(sys.argv[1])), torch.device('cpu'))}")
