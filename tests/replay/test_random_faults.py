"""Faults that no table lists are found, and no cause is wrong; honest runs raise no alarm."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

import tokentape as tt
from tests.replay.honest_runs import HonestRun
from tests.replay.random_faults import FAMILIES, inject
from tokentape.replay.reports.terminal import render
from tokentape.store import DatabaseStore

KINDS = 22
"""One fault of each kind."""


@pytest.mark.parametrize("seed", range(KINDS))
def test_a_random_fault_is_found_and_no_cause_is_wrong(seed: int) -> None:
    found = inject(seed)

    assert found.is_right, f"{found.name}\n{render(found.report)}"


@pytest.mark.slow
@pytest.mark.parametrize("replay", ["verify", "retrace"])
def test_a_hundred_random_faults_are_found_and_no_cause_is_wrong(replay: str) -> None:
    outcomes = [inject(seed, replay) for seed in range(KINDS, KINDS * 6)]
    moved = [each for each in outcomes if each.moved]

    assert [each.name for each in outcomes if not each.is_right] == []
    assert len(moved) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_honest_runs_of_every_kind_raise_no_alarm(
    family: str, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm, checked = make_lm(family, seed=4), 0
    for seed in range(24):
        for recording in HonestRun(lm, store, seed).record():
            report = tt.verify(recording, lm)

            assert report.passes, render(report)
            assert report.causes == (), render(report)
            checked += 1

    assert checked >= 20


_PROGRAM = """
import json
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tokentape.generation.fingerprints import config_fields, model_code, module_state
for family in ("llama", "gemma3", "gpt2", "qwen3-next"):
    model = tiny_model(family, byte_tokenizer()).model
    print(json.dumps([config_fields(model), module_state(model), model_code(model)]))
"""


def test_another_process_has_the_same_fingerprints_of_a_model() -> None:
    """Sets of names have another order in each process."""
    found = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _PROGRAM],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]

    assert found[0] == found[1]
    assert all(len(json.loads(line)) == 3 for line in found[0].splitlines())
