"""`tokentape verify` of several runs: lines, reports, exit codes and stored verdicts."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest

import tokentape as tt
from tests.replay.conftest import FORGERIES
from tests.tampering import without_triggers

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def packed(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_folder: Path,
    record: Callable[..., tt.Recording],
) -> Path:
    """Return a folder with a store of two runs, and a folder of tapes with one run each."""
    folder = tmp_path_factory.mktemp("bulk")
    lm = tt.load_model(tiny_folder)
    (folder / "tapes" / "deep").mkdir(parents=True)
    with tt.open_store(folder / "runs.db") as store:
        for name in ("a", "deep/b"):
            tt.pack([record(lm, store, tokens=5)], store, folder / "tapes" / f"{name}.tape")
    return folder


@pytest.fixture
def folder(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copied = shutil.copytree(packed, tmp_path / "work")
    monkeypatch.chdir(copied)
    return copied


def forge(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, without_triggers(connection):
        FORGERIES["other_logprob"](connection)


def without_times(printed: str) -> Any:
    found = json.loads(printed)
    for each in found:
        each.pop("duration_us", None)
    return found


def test_a_folder_of_tapes_is_verified_and_each_run_has_a_line(folder: Path, cli: Cli) -> None:
    code, out, err = cli("verify", "tapes")
    lines = out.splitlines()

    assert code == 0, err
    assert lines[0].startswith("verified     tapes/a.tape#")
    assert lines[0].endswith("'test' (4 turns, 20 tokens)")
    assert lines[1].startswith("verified     tapes/deep/b.tape#")
    assert lines[-1] == "2 runs: 2 verified"
    assert err == ""


def test_two_processes_print_what_one_prints(folder: Path, cli: Cli) -> None:
    one = cli("verify", "tapes", "runs.db", "--json")
    two = cli("verify", "tapes", "runs.db", "--json", "--jobs", "2")

    assert one[0] == two[0] == 0, two[2]
    for found, theirs in zip(without_times(two[1]), without_times(one[1]), strict=True):
        # Each process has its share of the cores, which the report notes.
        found.pop("differences"), theirs.pop("differences")
        found.pop("turns"), theirs.pop("turns")
        assert found == theirs
    assert [each["store"] for each in json.loads(one[1])] == [
        *(f"tapes/{name}.tape" for name in ("a", "deep/b")),
        *["runs.db"] * 2,
    ]


def test_what_is_wrong_with_some_is_named_and_the_others_are_verified(
    folder: Path, cli: Cli
) -> None:
    with tt.open_store("runs.db") as store:
        first, _ = (each.run_id for each in store.summaries())
    Path("broken.tape").write_bytes(Path("tapes/a.tape").read_bytes()[:2000])
    options = ("--junit", "out.xml", "--html", "out.html")
    code, out, err = cli(
        "verify", "broken.tape", f"runs.db#{first}", "no-such", "tapes", "runs.db#zzz", *options
    )
    lines = out.splitlines()

    assert code == 2
    assert "Traceback" not in err
    assert [each.split()[0] for each in lines[:6]] == [
        "failed",
        "verified",
        "failed",
        "verified",
        "verified",
        "failed",
    ]
    assert "broken.tape" in lines[0]
    assert "neither a run nor a file" in lines[2]
    assert "zzz" in lines[5]
    assert lines[-1] == "6 runs: 3 failed, 3 verified"
    suites = ElementTree.parse("out.xml").getroot()
    assert (len(suites), suites.get("errors")) == (6, "3")
    assert "test" in Path("out.html").read_text(encoding="utf-8")


def test_a_divergence_among_many_exits_with_1_and_prints_its_report(folder: Path, cli: Cli) -> None:
    forge(folder / "runs.db")
    with tt.open_store("runs.db") as store:
        bad, good = (each.run_id for each in store.summaries())
    code, out, _ = cli("verify", "tapes", f"runs.db#{bad}", f"runs.db#{good}")
    alone = cli("verify", f"runs.db#{bad}")

    assert code == alone[0] == 1
    assert "2 diverged" in out.splitlines()[-1] or "1 diverged" in out.splitlines()[-1]
    assert alone[1].splitlines()[0].split(":")[0] in out


def test_verdicts_of_live_stores_are_kept(folder: Path, cli: Cli) -> None:
    cli("verify", "tapes/a.tape", "runs.db")
    with tt.open_store("runs.db") as store:
        kept = [store.verdicts(each.run_id) for each in store.summaries()]
    cli("verify", "runs.db", "--jobs", "1", "--no-keep")
    with tt.open_store("runs.db") as store:
        after = [store.verdicts(each.run_id) for each in store.summaries()]

    assert [len(each) for each in kept] == [1, 1]
    assert kept == after
    assert "runs.db" not in json.dumps([each.report for group in kept for each in group])


def test_a_run_named_twice_is_verified_once(folder: Path, cli: Cli) -> None:
    code, out, _ = cli("verify", "tapes/a.tape", "tapes/a.tape", "tapes")

    assert code == 0
    assert out.splitlines()[-1] == "2 runs: 2 verified"


def test_the_password_of_a_server_is_not_printed(folder: Path, cli: Cli) -> None:
    url = "postgresql+psycopg://me:hunter2@127.0.0.1:1/none"
    code, out, err = cli("verify", "tapes/a.tape", url, "--json", "--junit", "out.xml")

    assert code == 2
    assert json.loads(out)[1]["store"] == "postgresql+psycopg://me:***@127.0.0.1:1/none"
    assert "hunter2" not in out + err + Path("out.xml").read_text(encoding="utf-8")


def test_nothing_to_replay_is_the_exit_code_only_if_nothing_is_worse(
    folder: Path, cli: Cli
) -> None:
    with tt.open_store("empty.db"):
        pass

    assert cli("verify", "empty.db", "tapes")[0] == 5
    assert cli("verify", "empty.db", "tapes", "none.tape")[0] == 2


@pytest.mark.parametrize(
    "options",
    [("--turn", "1"), ("--tools", "rerun"), ("--jobs", "0"), ("--jobs", "many")],
    ids=" ".join,
)
def test_options_that_mean_nothing_for_many_are_refused(
    folder: Path, cli: Cli, options: tuple[str, ...]
) -> None:
    code, out, err = cli("verify", "tapes", *options)

    assert (code, out) == (2, "")
    assert options[0] in err
    assert "Traceback" not in err


def test_ctrl_c_ends_every_process_at_once(folder: Path) -> None:
    for number in range(8):
        shutil.copy("tapes/a.tape", f"tapes/{number}.tape")
    process = subprocess.Popen(
        [sys.executable, "-m", "tokentape", "verify", "tapes", "--jobs", "2"],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children: list[psutil.Process] = []
    while process.poll() is None and len(children) < 2:
        time.sleep(0.01)
        children = [
            each
            for each in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(each.cmdline())
        ]
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert len(children) == 2
    assert not any(each.is_running() for each in children)
