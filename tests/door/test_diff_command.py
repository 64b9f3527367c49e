"""`tokentape diff` finds two runs by id, path or both, and prints their first divergence."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt
from tests.replay.made_talk import Said, talk_events
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]


def keep(store: DatabaseStore, *turns: Said, run_id: str) -> str:
    recorder = tt.Recorder(store, run_id=run_id)
    for event in talk_events(turns):
        recorder.record(event)
    return run_id


def spelled(parameter: object) -> str:
    return " ".join(parameter) if isinstance(parameter, tuple) else ""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with three runs, the third one different, and a tape with one of the runs."""
    with tt.open_store(tmp_path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        keep(store, Said(), Said(), run_id="aa1")
        keep(store, Said(), Said(), run_id="aa2")
        keep(store, Said(), Said(reply="no."), run_id="bb1")
        tt.pack([store.recording("aa1")], store, tmp_path / "one.tape")
        tt.pack([store.recording(run) for run in ("aa1", "bb1")], store, tmp_path / "two.tape")
        tt.pack([store.recording("aa1")], store, tmp_path / "one#.tape")
        tt.export_parquet(store.recording("aa2"), store, tmp_path / "sealed")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("aa1", "aa2", "--store", "runs.db"), 0),
        (("aa1", "aa1", "--store", "runs.db"), 0),
        (("aa1", "b", "--store", "runs.db"), 1),
        (("aa1", "one.tape", "--store", "runs.db"), 0),
        (("one.tape", "sealed"), 0),
        (("./one.tape", "runs.db#b"), 1),
        (("two.tape#aa", "sqlite:///runs.db#aa2"), 0),
        (("one#.tape", "./one#.tape#aa"), 0),
        (("aa2", "aa1", "--store", "runs.db", "--other-store", "one.tape"), 0),
        (("--store", "runs.db"), 1),
        (("--store", "one.tape", "--other-store", "sealed"), 0),
    ],
    ids=spelled,
)
def test_runs_are_named_by_ids_paths_or_both(
    folder: Path, cli: Cli, arguments: tuple[str, ...], code: int
) -> None:
    found, out, err = cli("diff", *arguments)

    assert (found, err) == (code, "")
    first = out.splitlines()[0]
    if code:
        assert (
            first
            == "same prompts and replies up to turn 1; turn 2 diverges at token 0: 'so.' / 'no.'"
        )
    else:
        assert first == "the same in all 2 turns, 6 tokens"


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("aa1", "cc", "--store", "runs.db"), 2, "has no run 'cc'"),
        (("aa1", "", "--store", "runs.db"), 2, "has no run ''"),
        (("aa1", "--store", "runs.db"), 2, "name two runs to compare"),
        (("none.tape", "one.tape"), 2, "'none.tape' is neither a run nor a file"),
        (("none.tape#aa1", "one.tape"), 2, "none.tape"),
        (("notes.txt", "one.tape"), 2, "notes.txt"),
        (("empty.db", "one.tape"), 5, "holds no run"),
        (("--store", "one.tape"), 5, "nothing to compare: one.tape holds 1"),
        (("no turns.db", "no turns.db"), 5, "nothing to compare: neither run"),
        (("one.tape", "one.tape", "--turn", "9"), 5, "neither run has a turn 9"),
    ],
    ids=spelled,
)
def test_what_cannot_be_compared_is_one_line(
    folder: Path, cli: Cli, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    (folder / "notes.txt").write_text("dear diary")
    tt.open_store(folder / "empty.db").close()
    with tt.open_store(folder / "no turns.db") as store:
        keep(store, run_id="dd")  # type: ignore[arg-type]
    before = sorted(folder.rglob("*"))
    found, out, err = cli("diff", *arguments)

    assert (found, out) == (code, "")
    assert complaint in err
    assert err.startswith("tokentape: ")
    assert err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("aa1", "a", "--store", "runs.db"), "runs.db begin with 'a': give more of the id"),
        (("two.tape", "one.tape"), "two.tape holds 2 runs: name one with two.tape#RUN"),
    ],
    ids=spelled,
)
def test_a_choice_of_runs_lists_them(
    folder: Path, cli: Cli, arguments: tuple[str, ...], complaint: str
) -> None:
    code, out, err = cli("diff", *arguments)
    first, *candidates = err.splitlines()

    assert (code, out) == (2, "")
    assert complaint in first
    assert len(candidates) == 2


def test_json_is_the_whole_comparison(folder: Path, cli: Cli) -> None:
    code, out, _ = cli("diff", "aa1", "bb1", "--store", "runs.db", "--json")
    found = json.loads(out)

    assert code == 1
    assert (found["same"], found["first_divergent_turn"]) == (False, 2)
    assert found["headline"].endswith("'so.' / 'no.'")
    assert [turn["same"] for turn in found["turns"]] == [True, False]
    assert found["turns"][1]["differing"] == ["reply"]
    assert found["turns"][1]["reply"]["sampled"]["b"]["token_id"] == ord("n")


def test_a_turn_given_as_an_option_is_shown_in_full(folder: Path, cli: Cli) -> None:
    _, out, _ = cli("diff", "aa1", "bb1", "--store", "runs.db", "--turn", "1")

    assert "numbers of 3 tokens: equal" in out
    assert "turn 2\n" not in out


def test_comparing_needs_no_torch(folder: Path) -> None:
    program = (
        "import sys; from tokentape.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "diff", "aa1", "aa2", "--store", "runs.db"],
        capture_output=True,
        text=True,
    )

    assert done.stdout.splitlines()[-1] == "False False"
    assert done.returncode == 0


def test_a_damaged_run_is_bad_input_and_no_difference(folder: Path, cli: Cli) -> None:
    shutil.copy("one.tape", "torn.tape")
    content = bytearray(Path("torn.tape").read_bytes())
    content[len(content) // 2] ^= 255
    Path("torn.tape").write_bytes(content)
    code, out, err = cli("diff", "one.tape", "torn.tape")

    assert (code, out) == (2, "")
    assert err.count("\n") == 1
