"""`tokentape run` runs several plans and seeds, and `tokentape resume` several runs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import tokentape as tt
from tests.counted_batch import CountedBatch, counted_batch
from tests.made_plans import short_plan
from tokentape.commands.many_runs import parsed_seeds

Cli = Callable[..., tuple[int, str, str]]
SAMPLED = {"do_sample": True, "temperature": 0.9}
CONTEXT = 2048
"""The tokens that fit into the tiny model, a byte each."""
PLAN = short_plan(limits={"max_new_tokens": 4}, sampling=SAMPLED)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(PLAN | {"name": "other"}))
    return path


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> type[CountedBatch]:
    return counted_batch(monkeypatch)


@pytest.fixture
def run(cli: Cli, url: str, tiny_folder: Path) -> Cli:
    def command(*arguments: object) -> tuple[int, str, str]:
        words = map(str, arguments)
        return cli("run", *words, "--store", url, "--model", str(tiny_folder))

    return command


def test_seeds_are_read_as_numbers_and_ranges() -> None:
    assert parsed_seeds(None) is None
    assert parsed_seeds("1-3, 12,-2--1,0") == [1, 2, 3, 12, -2, -1, 0]


def test_each_run_is_reported_in_a_line(
    run: Cli, url: str, plan: Path, batch: type[CountedBatch]
) -> None:
    code, out, err = run(plan, "--seeds", "1-2,7", "--batch", "2")
    with tt.open_store(url) as store:
        by_name = {each.name: each for each in sorted(store.summaries(), key=lambda run: run.name)}

    assert code == 0
    assert batch.sizes == (2,)
    assert list(by_name) == ["short-seed1", "short-seed2", "short-seed7"]
    assert [each.seed for each in by_name.values()] == [1, 2, 7]
    rows = [line.split() for line in out.splitlines()]
    assert rows == [
        ["run", "name", "status", "turns", "tokens"],
        *(
            [each.run_id, each.name, "finished", "3", str(each.generated_tokens)]
            for each in by_name.values()
        ),
    ]
    ended = [line.partition(":")[0] for line in err.splitlines() if "finished" in line]
    assert sorted(ended) == [f"{name} finished" for name in by_name]
    assert err.count("the chat template writes no tool calls") == 1


def test_several_plans_run_with_each_seed_and_print_json(
    run: Cli, url: str, plan: Path, other: Path
) -> None:
    code, out, _ = run(plan, other, "--seeds", "3,5", "--turns", "1", "--json")
    rows = json.loads(out)

    assert code == 0
    assert [(each["plan"], each["seed"], each["turns"]) for each in rows] == [
        ("short", 3, 1),
        ("short", 5, 1),
        ("other", 3, 1),
        ("other", 5, 1),
    ]
    assert {(each["status"], each["error"], each["store"]) for each in rows} == {
        ("finished", None, url)
    }
    with tt.open_store(url) as store:
        assert [each["run_id"] for each in rows] == [each.run_id for each in store.summaries()]


def test_several_plans_without_seeds_have_their_own(run: Cli, plan: Path, other: Path) -> None:
    rows = json.loads(run(plan, other, "--turns", "1", "--json")[1])

    assert [(each["name"], each["seed"]) for each in rows] == [("short", 0), ("other", 0)]


def test_an_automatic_batch_says_why_it_is_so_large(
    run: Cli, plan: Path, batch: type[CountedBatch]
) -> None:
    code, _, err = run(plan, "--seeds", "1-3", "--batch", "auto", "--turns", "1")

    assert (code, batch.sizes) == (0, (3,))
    assert "batch: all 3 at a time: each needs up to " in err


def test_a_run_that_fails_is_named_and_the_others_end(
    run: Cli, url: str, plan: Path, other: Path
) -> None:
    # With the result of the tool, the prompt is longer than the context.
    plan.write_text(yaml.safe_dump(PLAN | {"system_prompt": "x" * (CONTEXT - 30)}))
    code, out, err = run(plan, other, "--seeds", "1", "--turns", "1")
    with tt.open_store(url) as store:
        statuses = [each.status for each in store.summaries()]

    assert code == 2
    assert statuses == ["failed", "finished"]
    assert "failed: PromptTooLongError: " in out
    assert "tokentape: 1 of 2 runs failed" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seeds", "8-1"), "--seeds '8-1': 8-1 ends before it begins"),
        (("--seeds", "a"), "--seeds 'a': give numbers and ranges, such as 1-8,12"),
        (("--seeds", ""), "--seeds '': give numbers and ranges"),
        (("--seeds", "1,,2"), "--seeds '1,,2': give numbers and ranges"),
        (("--seeds", "1-4,3"), "--seeds '1-4,3': seed 3 is there 2 times"),
        (("--seeds", "1-99999999999"), "has more than 10,000 seeds"),
        (("--seeds", "９"), "give numbers and ranges"),
        (("--seeds", str(2**63)), "a seed must be a whole number of 64 bits"),
        (("--seeds", "1", "--seed", "2"), "give --seed for one run or --seeds for several"),
        (("--seeds", "1-2", "--name", "x"), "--name is for one run"),
        (("--seeds", "1-2", "--batch", "0"), "--batch '0': give a number of runs from 1, or auto"),
        (("--seeds", "1-2", "--batch", "-3"), "--batch '-3': give a number of runs"),
        (("--seeds", "1-2", "--batch", "many"), "--batch 'many': give a number of runs"),
    ],
)
def test_bad_requests_are_one_line_and_nothing_is_recorded(
    run: Cli, plan: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run(plan, *arguments)

    assert (code, out) == (2, "")
    # A terminal may wrap the line.
    assert said in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert not (tmp_path / "runs.db").exists()


def test_a_plan_that_is_named_twice_is_refused(run: Cli, plan: Path, tmp_path: Path) -> None:
    code, out, err = run(plan, plan, "--seeds", "1-2")

    assert (code, out) == (2, "")
    assert "2 plans are called 'short': give each plan once" in err
    assert not (tmp_path / "runs.db").exists()


def interrupted(plan: Path, url: str, tiny_folder: Path, how: signal.Signals, *more: str) -> str:
    """Run a plan with seeds in a process, end it after 110 tokens, and return what it said.

    That is in the second run, or in both of a batch of two.
    """
    words = ["run", str(plan), "--seeds", "1-3", "--model", str(tiny_folder), "--store", url]
    process = subprocess.Popen(
        [sys.executable, "-m", "tokentape", *words, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    path = Path(url.removeprefix("sqlite:///"))
    while tokens_in(path) < 110 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(how)
    out, err = process.communicate(timeout=120)
    assert out == ""
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(how, -how)
    return err


def tokens_in(path: Path) -> int:
    try:
        with tt.open_store(path, must_exist=True) as store:
            return len(tt.tokens_df(store, columns="turn"))
    except tt.TokentapeError:
        return 0


def statuses(path: Path) -> list[str]:
    try:
        with tt.open_store(path, must_exist=True) as store:
            return [each.status for each in store.summaries()]
    except tt.TokentapeError:
        return []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_one_command_resumes_what_an_end_of_the_process_left(
    cli: Cli, url: str, tiny_folder: Path, plan: Path, number: signal.Signals
) -> None:
    long = {"limits": {"max_new_tokens": 100}, "sampling": SAMPLED | {"min_new_tokens": 100}}
    plan.write_text(
        yaml.safe_dump(PLAN | long | {"tools": [], "tasks": [{"title": "T", "turns": ["?"]}]})
    )
    together = ("--batch", "2")
    err = interrupted(plan, url, tiny_folder, number, *together)
    path = Path(url.removeprefix("sqlite:///"))
    with tt.open_store(path) as store:
        every = [each.run_id for each in store.summaries()]
        left = [each.run_id for each in store.summaries() if each.status != "finished"]
    code, out, _ = cli("resume", *every, "--store", url, "--json")

    assert code == 0
    assert [each["status"] for each in json.loads(out)] == ["finished"] * len(every)
    assert statuses(path) == ["finished"] * len(every)
    if number is not signal.SIGKILL:
        assert "resume with: tokentape resume " in err
        assert all(each in err for each in left)
        assert "--batch" in err
        assert "Traceback" not in err
        assert ("1 run had not begun: short-seed3" in err) == (len(every) == 2)


def test_runs_that_cannot_be_resumed_together_are_refused(
    cli: Cli, run: Cli, url: str, plan: Path, tmp_path: Path
) -> None:
    rows = json.loads(run(plan, "--seeds", "1-2", "--turns", "1", "--json")[1])
    first, second = (each["run_id"] for each in rows)
    with tt.open_store(tmp_path / "else.db"):
        pass
    cases = {
        (first, first): "a run is named twice",
        (first, "nope"): "nope",
        (first, second, "--dry-run"): "--dry-run takes one run",
        (first, str(tmp_path / "else.db")): "the runs are in 2 stores",
    }
    for words, said in cases.items():
        code, out, err = cli("resume", *words, "--store", url)
        assert (code, out) == (2, "")
        assert said in " ".join(err.split())
        assert "Traceback" not in err


def test_runs_are_resumed_in_a_batch_by_name(
    cli: Cli, run: Cli, url: str, plan: Path, batch: type[CountedBatch]
) -> None:
    run(plan, "--seeds", "1-2", "--turns", "1")
    code, out, err = cli("resume", "short-seed1", "short-seed2", "--store", url, "--batch", "2")

    assert code == 0
    assert batch.sizes == (2,)
    assert [line.split()[1:4] for line in out.splitlines()[1:]] == [
        ["short-seed1", "finished", "0"],
        ["short-seed2", "finished", "0"],
    ]
    assert err.count("finished: 0 turns") == 2
