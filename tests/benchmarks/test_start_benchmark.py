"""`python -m benchmarks start`: commands in new processes, and loading the demo model."""

from pathlib import Path

import pytest

import tokentape as tt
from benchmarks.start import measure


def test_commands_are_timed_in_each_round(
    lm: tt.LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_COMMANDS", ("list", "show"))
    path = tmp_path / "runs.db"
    run_id = measure.make_run(lm, path)
    ticks: list[None] = []
    seconds = measure.measure_commands(path, run_id, rounds=1, tick=lambda: ticks.append(None))

    assert list(seconds) == ["tokentape list", "tokentape show", measure.BARE]
    assert all(len(each) == 1 and each[0] > 0 for each in seconds.values())
    assert len(ticks) == 6


def test_a_command_that_fails_is_no_time(tmp_path: Path) -> None:
    with pytest.raises(tt.ModelError, match="-m tokentape list: tokentape: there is no store"):
        measure.measure_commands(tmp_path / "none.db", "nothing", rounds=1)


def test_loads_are_what_their_processes_report(monkeypatch: pytest.MonkeyPatch) -> None:
    printing = "import sys; sys.stderr.write('noise'); print('noise'); print({seconds})"
    programs = iter([printing.format(seconds=1.5), printing.format(seconds=20.0)])

    class Program:
        def format(self, **parts: str) -> str:
            return next(programs)

    monkeypatch.setattr(measure, "_LOAD", Program())
    seconds = measure.measure_loading(rounds=2)

    assert seconds == {measure.OURS: [1.5, 1.5], measure.FROM_GGUF: [20.0, 20.0]}
