"""`tokentape run` runs a plan to its end, and prints how to resume it if interrupted."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import tokentape as tt
from tests.made_plans import short_plan
from tokentape.generation.plans import ExperimentPlan

Cli = Callable[..., tuple[int, str, str]]
SHORT = short_plan(seed=4, system_prompt="Look. {tools}", limits={"max_new_tokens": 4})


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(SHORT))
    return path


@pytest.fixture
def run(
    cli: Cli, tmp_path: Path, tiny_folder: Path, plan: Path
) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: str) -> tuple[int, str, str]:
        where = ("--store", str(tmp_path / "runs.db"), "--model", str(tiny_folder))
        return cli("run", str(plan), *where, *arguments)

    return command


def test_the_shipped_plans_are_listed(cli: Cli) -> None:
    code, out, _ = cli("run", "--list")
    listed = json.loads(cli("run", "--list", "--json")[1])

    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [each["name"] for each in listed]
    assert [(each["name"], each["turns"]) for each in listed[:2]] == [
        ("demo", 20),
        ("phase1a", 20),
    ]


def test_a_run_prints_its_id_and_its_turns(run: Cli, tmp_path: Path) -> None:
    code, out, err = run()
    with tt.open_store(tmp_path / "runs.db") as store:
        (summary,) = store.summaries()

    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"run {summary.run_id}"
    assert out.count("extends") == 3
    assert (summary.name, summary.status, summary.turns, summary.seed) == (
        "short",
        "finished",
        3,
        4,
    )


def test_options_override_the_plan_and_are_recorded(run: Cli, tmp_path: Path) -> None:
    asked = ("--turns", "2", "--seed", "9", "--max-new-tokens", "2", "--name", "mine", "--json")
    printed = json.loads(run(*asked)[1])
    with tt.open_store(tmp_path / "runs.db") as store:
        recording = store.recording(printed["run_id"])
        started = recording.started()
        recorded = ExperimentPlan.from_described(started.settings["plan"])

    assert [each["turn"] for each in printed["turns"]] == [1, 2]
    assert all(each["generated_tokens"] <= 2 for each in printed["turns"])
    assert [each["role"] for each in printed["turns"][0]["messages"]] == ["user", "tool"]
    assert (started.name, started.seed) == ("mine", 9)
    assert (recorded.limits.turns_max, recorded.limits.max_new_tokens, recorded.seed) == (2, 2, 9)


def test_a_recorded_run_verifies(run: Cli, cli: Cli, tmp_path: Path) -> None:
    run()
    code, out, _ = cli("verify", "--store", str(tmp_path / "runs.db"))

    assert code == 0
    assert "VERIFIED" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run",), "name a plan; --list shows the plans that come with tokentape"),
        (("run", "nope"), "'nope' is neither a shipped plan (demo, phase1a,"),
        (("run", "phase1a", "--model", "/nowhere"), "there is no model folder /nowhere"),
        (("run", "phase1a", "--turns", "0"), "'--turns'"),
        (("run", "phase1a", "--seed", str(2**63)), "phase1a: seed must be at least"),
        (("chat", "--model", "/nowhere"), "there is no model folder /nowhere"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_nothing_is_recorded(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = cli(*arguments, "--store", str(tmp_path / "runs.db"))

    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs.db").exists()


def test_a_plan_that_does_not_fit_the_model_leaves_no_run(
    run: Cli, cli: Cli, plan: Path, tmp_path: Path
) -> None:
    plan.write_text(yaml.safe_dump(SHORT).replace("{layer:1}", "{layer:30}"))
    code, _, err = run()

    assert code == 2
    assert "short, turn 1: {layer:30}: the model has 3 layers, numbered from 0 to 2" in err
    assert json.loads(cli("list", "--store", str(tmp_path / "runs.db"), "--json")[1]) == []


def test_sealed_runs_are_not_recorded_into(run: Cli, tmp_path: Path, cli: Cli) -> None:
    run("--turns", "1")
    sealed = str(tmp_path / "sealed")
    cli("export", "--store", str(tmp_path / "runs.db"), "--output", sealed)
    code, _, err = run("--store", sealed)

    assert code == 2
    assert "is sealed: record into a database" in err


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted;"), (signal.SIGTERM, 143, "interrupted by SIGTERM;")],
)
def test_an_interrupt_ends_the_run_and_says_how_to_resume(
    tmp_path: Path, tiny_folder: Path, plan: Path, number: signal.Signals, code: int, said: str
) -> None:
    database = tmp_path / "runs.db"
    plan.write_text(
        yaml.safe_dump(
            SHORT | {"limits": {"max_new_tokens": 500}, "sampling": {"min_new_tokens": 500}}
        )
    )
    command = ["run", str(plan), "--model", str(tiny_folder), "--store", str(database)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tokentape", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not tokens_in(database) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    with tt.open_store(database) as store:
        (summary,) = store.summaries()
        (turn,) = store.recording(summary.run_id).turns()

    assert process.returncode == code
    assert out == ""
    assert f"{said} resume with: tokentape resume {summary.run_id} --store {database}" in err
    assert "Traceback" not in err
    assert summary.status == "interrupted"
    assert 0 < len(turn.tokens) < 500


def tokens_in(database: Path) -> int:
    if not database.exists():
        return 0
    try:
        with tt.open_store(database, must_exist=True) as store:
            return len(tt.tokens_df(store))
    except tt.TokentapeError:
        return 0
