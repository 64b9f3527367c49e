"""Honest runs with random settings: every replay must accept them."""

from collections.abc import Iterator

import torch

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tests.replay.honest_runs import HonestRun
from tests.replay.test_retrace import retraces
from tests.torture.tally import Row, Torture
from tokentape.store import DatabaseStore

FAMILIES = ("llama", "qwen3", "gpt2", "mistral", "gemma3")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_REGENERATED = 4
"""One of so many runs is regenerated as well."""


def honest(torture: Torture) -> Iterator[Row]:
    """Record runs whose settings are drawn, on five families, and verify them."""
    chance = torture.random()
    verified, exact = Row("honest run: verify"), Row("honest run: regenerate")
    models = {family: tiny_model(family, byte_tokenizer()) for family in FAMILIES}
    for number in range(torture.count(200)):
        family, seed = FAMILIES[number % len(FAMILIES)], chance.randrange(2**31)
        lm, what = models[family], f"{family}, seed {seed}"
        with tt.open_store("sqlite://") as store:
            assert isinstance(store, DatabaseStore)
            recordings: list[tt.Recording] = []
            with verified.attempt(what):
                recordings = HonestRun(lm, store, seed).record()
                for recording in recordings:
                    report = tt.verify(recording, lm)
                    assert report.verdict is tt.Verdict.VERIFIED, _told(report)
            if recordings and number % _REGENERATED == 0:
                with exact.attempt(what):
                    report = tt.regenerate(recordings[0], lm)
                    assert report.verdict is tt.Verdict.EXACT, _told(report)
    yield from (verified, exact, _retraced(torture))


def _retraced(torture: Torture) -> Row:
    """Retrace runs in three dtypes, with other threads than they were recorded with."""
    chance, row = torture.random(), Row("honest run: retrace")
    threads = torch.get_num_threads()
    models = [tiny_model(f, byte_tokenizer(), dtype=dtype) for f in FAMILIES for dtype in DTYPES]
    for number in range(torture.count(500)):
        seed = chance.randrange(2**31)
        with row.attempt(f"model {number % len(models)}, seed {seed}"):
            retraces(models[number % len(models)], seed)
    torch.set_num_threads(threads)
    return row


def _told(report: tt.Report) -> str:
    return f"{report.verdict}: {report.reason}"
