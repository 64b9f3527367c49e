"""`python -m benchmarks replay` and `faults`, at toy size."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import benchmarks.__main__ as commands
import tokentape as tt
from benchmarks.replay import commands as replay_commands
from benchmarks.replay import dtypes, fault_table
from benchmarks.replay.fault_case import record_case
from benchmarks.replay.faults import FAULTS, Fault, check_fault
from benchmarks.replay.retraces import measure_retraces
from benchmarks.replay.timings import measure_replays
from tests.replay.conversations import converse
from tokentape.store import DatabaseStore


def test_every_turn_is_regenerated_and_the_whole_is_verified_in_between(
    lm: tt.LoadedModel, store: DatabaseStore, record: Callable[..., tt.Recording]
) -> None:
    ticks: list[None] = []
    figures = measure_replays(
        record(lm, store), lm, verifications=3, tick=lambda: ticks.append(None)
    )

    assert [each.turn for each in figures.turns] == [1, 2, 3, 4]
    assert len(figures.verifications_s) == 3
    assert len(ticks) == 7
    assert figures.passes
    assert figures.verify_s == sorted(figures.verifications_s)[1]


def test_replay_exits_with_1_where_a_replay_does_not_pass(
    make_lm: Callable[..., tt.LoadedModel],
    tmp_path: Path,
    record: Callable[..., tt.Recording],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        record(make_lm("llama"), store)
    arguments = ["replay", "--store", str(tmp_path / "runs.db"), "--verifications", "1"]
    arguments += ["--retrace-rounds", "0"]
    for seed, code in ((0, 0), (5, 1)):
        other = make_lm("llama") if code == 0 else make_lm("llama", seed=seed)
        monkeypatch.setattr(replay_commands, "demo_model", lambda device, lm=other: lm)
        done = CliRunner().invoke(commands.app, arguments)

        assert done.exit_code == code, done.output
        assert "times faster" in done.output


def test_a_run_in_16_bits_is_retraced_and_each_change_is_found_in_its_turn(
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    figures = measure_retraces(
        make_lm("llama", dtype=torch.bfloat16),
        rounds=2,
        record=lambda lm, store: converse(lm, store, turns=5, do_sample=True, temperature=0.8),
    )

    assert figures.passes, figures.changes
    assert figures.verdicts == ("exact", "exact")
    assert [each.cause for each in figures.changes] == ["weights", "token", "seed", "sampler"]
    assert [each.found_turn for each in figures.changes] == [1, 4, 4, 4]


def test_the_table_of_faults_goes_between_its_marks_and_a_wrong_cause_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    names = ("tiny", "tiny in 16 bits")
    marks = [
        f"<!-- faults of {name} -->\nold\n<!-- end of faults of {name} -->\n" for name in names
    ]
    page.write_text(f"before\n{marks[0]}between\n{marks[1]}after\n")
    honest = FAULTS[0]
    wrong = Fault(name="wrong", inject=honest.inject, verdicts=("diverged",), causes=("seed",))
    arguments = ["faults", "--model", "tiny", "--tokens", "8", "--update", str(page)]
    for faults, code in (((honest,), 0), ((honest, wrong), 1)):
        monkeypatch.setattr(replay_commands, "FAULTS", faults)
        done = CliRunner().invoke(commands.app, [*arguments, "--json", str(figures)])

        assert done.exit_code == code, done.output
        assert f"{3 * code} wrong" in done.output
    text = page.read_text()
    assert text.startswith("before\n<!-- faults of tiny -->\n| fault | verdict |")
    assert "<!-- end of faults of tiny -->\nbetween\n" in text
    assert "<!-- faults of tiny in 16 bits -->\n| fault | bfloat16: verdict |" in text
    assert text.endswith("<!-- end of faults of tiny in 16 bits -->\nafter\n")
    assert "old" not in text
    assert json.loads(figures.read_text())["faults of tiny"][0]["verdict"] == "verified"


def test_a_page_without_a_place_for_the_table_is_refused(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    results = [check_fault(FAULTS[0], record_case(lm, tokens=8))]
    with pytest.raises(ValueError, match="lacks the comments around the faults of tiny"):
        fault_table.update_docs(page, "tiny", fault_table.verify_lines(results))
    assert page.read_text() == "nothing here"


def test_dtypes_compares_three_precisions_and_exits_with_1_where_bits_differ(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["dtypes", "--model", str(tiny_folder), "--turns", "1", "--rounds", "1"]
    done = CliRunner().invoke(commands.app, [*arguments, "--json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    whole, half, cast = figures["precisions"]

    assert done.exit_code == 0, done.output
    assert "bit for bit: yes" in done.output
    assert half["weights_bytes"] == cast["weights_bytes"] <= 0.55 * whole["weights_bytes"]
    assert cast["kv_bytes_per_token"] == whole["kv_bytes_per_token"]
    assert [each["verify"] for each in (whole, half, cast)] == ["verified", "near_tie", "verified"]
    assert cast["regenerate"] == "exact"
    assert [each["retrace"] for each in (whole, half, cast)] == ["exact"] * 3
    monkeypatch.setitem(dtypes.PRECISIONS, "bfloat16 in float32", {"dtype": "float32"})
    done = CliRunner().invoke(commands.app, arguments)

    assert (done.exit_code, "bit for bit: NO" in done.output) == (1, True)
