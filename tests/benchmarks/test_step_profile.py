"""A step is split into parts, and what is replaced for that is put back."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.generation import step_profile
from benchmarks.generation.step_clock import FORWARD, LINEAR, MEASURE, StepClock, timing_steps
from benchmarks.generation.step_profile import BY_MODULES, COLUMNS, GENERATE, TRACED
from tokentape.generation import hf
from tokentape.generation.hf import traced_step


def test_a_part_does_not_count_the_parts_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("benchmarks.generation.step_clock.step_clock", lambda: lambda: now[0])
    clock = StepClock()

    def wait(seconds: float) -> None:
        now[0] += seconds

    inner = clock.timed(LINEAR, lambda: wait(0.002))

    def outer() -> None:
        wait(0.001)
        inner()
        wait(0.004)

    clock.begin_step()
    clock.take_steps()
    clock.timed(MEASURE, outer)()
    clock.begin_step()

    (step,) = clock.take_steps()
    assert {part: round(ms, 6) for part, ms in step.items() if ms} == {LINEAR: 2.0, MEASURE: 5.0}


@pytest.mark.parametrize("within_forwards", [True, False])
def test_what_is_timed_is_put_back(lm: tt.LoadedModel, within_forwards: bool) -> None:
    before = [dict(vars(each)) for each in lm.model.modules()]
    functions: list[Any] = [hf.process, torch.nn.functional.scaled_dot_product_attention]
    with pytest.raises(KeyError), timing_steps(lm.model, within_forwards=within_forwards):
        raise KeyError

    assert [vars(each) for each in lm.model.modules()] == before
    assert functions == [hf.process, torch.nn.functional.scaled_dot_product_attention]


def test_each_column_has_the_parts_of_its_steps(
    lm: tt.LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_profile, "_READ_BYTES", 4096)
    monkeypatch.setattr(traced_step, "UNTRACED_STEPS", 3)
    (profile,) = step_profile.measure_step_profiles(
        lm, tmp_path, contexts=(40,), new_tokens=24, rounds=1
    )
    parts = {
        column: {part for part, ms in profile.parts_ms[column].items() if ms} for column in COLUMNS
    }

    assert FORWARD in parts[TRACED]
    assert LINEAR not in parts[TRACED]
    assert {LINEAR, MEASURE} <= parts[BY_MODULES]
    assert LINEAR in parts[GENERATE]
    assert MEASURE not in parts[GENERATE]
    assert profile.weight_bytes > 0
    assert step_profile.speed_line([profile])
    assert step_profile.profile_table([profile]).row_count > 10
