"""Over a hundred turns memory grows by the cache alone."""

import json
import os
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

TURNS = 100
SETTLED = 10
SCRIPT = """
import json, sys
import torch
import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tokentape.recorder.events import MemorySampled

torch.set_num_threads(1)
# As many heads of keys as of queries: else torch's attention copies the keys that heads share, and
# what it takes grows with the context.
lm = tiny_model(
    "llama", byte_tokenizer(), max_position_embeddings=131_072, num_key_value_heads=4
)
with tt.open_store(sys.argv[1]) as store:
    # The system prompt of the plan, and several hundred tokens more with each turn.
    system_prompt = "Be kind. " * 700
    with tt.Investigation(
        lm, store=store, name="long", system_prompt=system_prompt, seed=3
    ) as run:
        for turn in range(int(sys.argv[2])):
            run.chat("word " * 120, max_new_tokens=10, do_sample=True)
    events = [each.event for each in store.recording(run.run_id).events()]
    print(json.dumps([
        [each.turn, each.kv_bytes, each.process_bytes, each.transient_bytes]
        for each in events if isinstance(each, MemorySampled)
    ]))
    assert tt.check(store, run.run_id).ok
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells peaks")
def test_a_hundred_turns_take_the_memory_of_their_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = _recorded(f"sqlite:///{tmp_path}/long.db")
    assert [turn for turn, *_ in samples] == list(range(1, TURNS + 1))
    grown = {turn for (_, before, *_), (turn, after, *_) in pairwise(samples) if after > before}
    settled = [sample for sample in samples if sample[0] > SETTLED]
    transient = [peak for turn, _, _, peak in settled if turn not in grown]
    without_cache = [process - kv for _, kv, process, _ in settled]
    flat, resident = statistics.median(transient), statistics.median(without_cache)
    spread = max(abs(each - flat) for each in transient) / flat
    without_cache_spread = max(abs(each - resident) for each in without_cache) / resident

    with capsys.disabled():
        print(
            f"\n{TURNS} turns, cache {samples[SETTLED][1] / 1e6:.1f} to {samples[-1][1] / 1e6:.1f} "
            f"MB: transient {flat / 1e6:.1f} MB within {spread:.1%} in {len(transient)} turns, "
            f"process without cache {resident / 1e6:.0f} MB within {without_cache_spread:.1%}"
        )
    assert len(transient) > TURNS / 2
    assert spread < 0.05
    assert without_cache_spread < 0.05
    # Where the cache outgrows its room, old and new are there together.
    assert all(peak <= 1.05 * flat + kv for turn, kv, _, peak in settled if turn in grown)


def _recorded(url: str) -> list[Any]:
    # What is freed goes back at once: else the process keeps it, and a peak hides in it.
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    command = [sys.executable, "-c", SCRIPT, url, str(TURNS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))
