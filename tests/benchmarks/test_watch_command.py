"""`python -m benchmarks watch`, at toy size."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import benchmarks.__main__ as commands
import tokentape as tt
from benchmarks.generation import commands as generation
from benchmarks.generation.monitor_cost import measure_monitor_cost


def test_every_way_is_timed_in_every_round_and_says_the_same(lm: tt.LoadedModel) -> None:
    ticks: list[None] = []
    figures = measure_monitor_cost(lm, new_tokens=4, rounds=2, tick=lambda: ticks.append(None))

    assert {way: len(steps) for way, steps in figures.step_ms.items()} == {
        "plain": 2,
        "compact": 2,
        "full": 2,
    }
    assert figures.same_tokens
    assert len(ticks) == 3


def test_the_figures_are_shown_and_written(
    lm: tt.LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "demo_model", lambda device: lm)
    path = tmp_path / "figures.json"
    arguments = ["watch", "--rounds", "1", "--new-tokens", "4", "--json", str(path)]
    done = CliRunner().invoke(commands.app, arguments)

    assert done.exit_code == 0, done.output
    assert "same tokens: True" in done.output
    assert set(json.loads(path.read_text())["watch"]["step_ms"]) == {"plain", "compact", "full"}
