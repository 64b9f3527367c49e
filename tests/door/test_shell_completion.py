"""A shell completes commands, runs, tags and plans, without torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tokentape as tt
from tests.made_events import run_started
from tests.store.made_runs import make_run
from tokentape.commands import completion
from tokentape.store import DatabaseStore

COMPLETE = """
import sys
sys.argv = ["tokentape"]
from tokentape.cli import main
try:
    main()
except SystemExit:
    pass
heavy = {"torch", "transformers", "pandas"} & set(sys.modules)
print(*sorted(heavy), file=sys.stderr, end="")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tt.open_store(tmp_path / "tokentape.db") as store:
        assert isinstance(store, DatabaseStore)
        make_run(store, turns=1, run_id="aa1")
        store.tag("aa1", "good")
        tt.Recorder(store, run_id="ab2").record(run_started(name="probe-7"))
        tt.Recorder(store, run_id="ab3").record(run_started(name="probe $(reboot)"))
    return tmp_path


def completed(folder: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of the words."""
    variables = {
        "_TOKENTAPE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("tokentape", *words)),
        "COMP_CWORD": str(len(words)),
    }
    found = subprocess.run(
        [sys.executable, "-c", COMPLETE],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stderr == ""
    return found.stdout.split()


def test_runs_are_completed_by_id_and_name_without_torch(folder: Path) -> None:
    assert completed(folder, "show", "a") == ["aa1", "ab3", "ab2"]
    assert completed(folder, "verify", "tokentape.db#pr") == ["tokentape.db#probe-7"]


def test_tags_and_plans_are_completed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(folder, "tag", "aa1", "g") == ["good"]
    assert completion.complete_plan("phase") == [f"phase1{each}" for each in "abcde"]


def test_a_store_that_is_not_there_completes_nothing(tmp_path: Path) -> None:
    assert completed(tmp_path, "show", "a") == []
    assert list(tmp_path.iterdir()) == []
