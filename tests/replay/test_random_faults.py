"""Faults that no table lists are found, and no cause is wrong; honest runs raise no alarm."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tests.replay.honest_runs import HonestRun
from tests.replay.random_faults import FAMILIES, inject
from tokentape.generation.fingerprints import config_fields, model_code, module_state
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


def fingerprints() -> list[str]:
    """Return the fingerprints of a model of each of four families, as JSON."""
    models = (tiny_model(each, byte_tokenizer()).model for each in _FAMILIES)
    return [
        json.dumps([config_fields(each), module_state(each), model_code(each)]) for each in models
    ]


_FAMILIES = ("llama", "gemma3", "gpt2", "qwen3-next")
_PROGRAM = (
    "from tests.replay.test_random_faults import fingerprints; print(*fingerprints(), sep='\\n')"
)


def test_another_process_has_the_same_fingerprints_of_a_model() -> None:
    """Sets of names have another order in each process."""
    here = os.environ.get("PYTHONHASHSEED", "random")
    other = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM],
        env={"PYTHONHASHSEED": "2" if here == "1" else "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    found = fingerprints()

    assert other.stdout.splitlines() == found
    assert all(len(json.loads(line)) == 3 for line in found)
