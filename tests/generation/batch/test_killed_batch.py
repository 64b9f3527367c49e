"""A batch whose process is killed leaves runs that resume to the tokens that each has alone."""

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tests.samplers import SAMPLED
from tokentape.store import DatabaseStore

RUNS, TURNS, TOKENS = 8, 2, 24
AFTER_TOKENS = 120
"""The process is killed when the store has so many tokens of all runs."""
_SAMPLED: dict[str, Any] = SAMPLED | {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}


def load(dtype: str) -> tt.LoadedModel:
    torch.set_num_threads(1)
    lm = tiny_model("qwen3", byte_tokenizer())
    lm.model.to(getattr(torch, dtype))
    return lm


def go_on(run: tt.Investigation) -> None:
    """Run the turns that are missing."""
    with run:
        for turn in range(run.generator.turn, TURNS):
            run.chat(f"Number {turn}", **_SAMPLED)


def begin(lm: tt.LoadedModel, store: DatabaseStore, number: int) -> str:
    run = tt.Investigation(
        lm, store=store, name=f"run {number}", system_prompt="Hi." * number, seed=number
    )
    go_on(run)
    return run.run_id


def record_batch(url: str, dtype: str) -> None:
    """Record the runs at once, in a process that is killed."""
    with tt.open_store(url) as store:
        lm = load(dtype)
        with tt.Batch(lm, size=RUNS) as batch:
            for number in range(RUNS):
                batch.start(begin, lm, store, number)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_run_of_a_killed_batch_resumes_and_replays(dtype: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=record_batch, args=(url, dtype))
    process.start()
    with tt.open_store(url) as store:
        until = time.monotonic() + 120
        while len(store.summaries()) < RUNS or _tokens(store) < AFTER_TOKENS:
            assert process.is_alive(), "it ended by itself"
            assert time.monotonic() < until
            time.sleep(0.01)
        process.kill()
        process.join()
        killed = {each.name: each.run_id for each in store.summaries()}
        assert len(killed) == RUNS
        assert _tokens(store) < RUNS * TURNS * TOKENS

        lm = load(dtype)
        with tt.Batch(lm, size=RUNS) as batch:
            for run_id in killed.values():
                batch.start(lambda each: go_on(tt.Investigation.resume(store, each, lm)), run_id)

        for number in range(RUNS):
            resumed = store.recording(killed[f"run {number}"])
            if dtype == "float32":  # in 16 bits rounding may choose another token
                alone = store.recording(begin(lm, store, number))
                assert _replies(resumed) == _replies(alone)
                assert tt.verify(resumed, lm).verdict.value == "verified"
                assert tt.regenerate(resumed, lm).verdict.value == "exact"
            assert [len(each) for each in _replies(resumed)] == [TOKENS] * TURNS
            assert tt.retrace(resumed, lm).verdict.value == "exact"
            assert len(tt.rebuild(resumed).turns) == TURNS
            assert tt.check(store, resumed.run_id).ok


def _tokens(store: DatabaseStore) -> int:
    return len(tt.tokens_df(store))


def _replies(recording: tt.Recording) -> list[list[int]]:
    """Return the ids of each turn's reply, of both of its parts if it was interrupted."""
    return [list(turn.reply_ids) for turn in recording.turns()]
