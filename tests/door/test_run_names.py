"""Every command takes a run by its id, the beginning of one, its name, a file or FILE#RUN."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt
from tests.made_events import run_started
from tests.store.made_runs import TICKS_US, say
from tokentape.screen import Screen
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]
NAMES = {"aa1": "probe", "aa2": "steered", "bb1": "twice", "bb2": "twice", "cc1": "aa1x"}


def keep(store: DatabaseStore, run_id: str, name: str) -> None:
    with tt.Recorder(store, run_id=run_id, clock_us=TICKS_US.__next__) as recorder:
        recorder.record(run_started(name=name))
        say(recorder, 1, tokens=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of five runs, two tapes and two sealed folders."""
    path = tmp_path_factory.mktemp("made")
    with tt.open_store(path / "tokentape.db") as store:
        assert isinstance(store, DatabaseStore)
        for run_id, name in NAMES.items():
            keep(store, run_id, name)
        tt.pack([store.recording("aa1")], store, path / "one.tape")
        both = [store.recording("aa1"), store.recording("aa2")]
        tt.pack(both, store, path / "two.tape")
        tt.export_parquet(store.recording("aa2"), store, path / "sealed")
        tt.export_parquet(store.recording("aa1"), store, path / "steered")
    return path


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `made`, as the working folder."""
    copy = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("aa1", "aa1"),
        ("c", "cc1"),
        ("probe", "aa1"),
        ("aa1x", "cc1"),
        ("@last", "cc1"),
        ("@last~1", "bb2"),
        ("one.tape", "aa1"),
        ("./one.tape#probe", "aa1"),
        ("two.tape", "aa2"),
        ("two.tape#aa1", "aa1"),
        ("sealed", "aa2"),
        ("sealed#steered", "aa2"),
        ("tokentape.db#prob", None),
        ("sqlite:///tokentape.db#probe", "aa1"),
        ("sqlite:///tokentape.db", "cc1"),
        # A folder has the name of a run: the word means the run, the path the folder.
        ("steered", "aa2"),
        ("./steered", "aa1"),
    ],
)
def test_a_run_is_named_by_an_id_a_name_or_a_file(
    folder: Path, cli: Cli, named: str, found: str | None
) -> None:
    code, out, err = cli("show", named, "--json")

    if found is None:
        assert (code, out) == (2, "")
        assert "did you mean 'probe'" in err
    else:
        note = "two.tape holds 2 runs: this is the newest, steered (aa2); name another with "
        assert (code, err) == (0, f"{note}two.tape#RUN\n" if named == "two.tape" else "")
        assert json.loads(out)["run_id"] == found


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("check", "one.tape"), 0),
        (("rebuild", "one.tape"), 0),
        (("tail", "one.tape", "--no-follow"), 0),
        (("diff", "one.tape", "probe"), 0),
        (("export", "one.tape", "-o", "again"), 0),
        (("export", "-o", "again.jsonl", "--to", "jsonl", "probe"), 0),
        (("pack", "one.tape", "-o", "again.tape"), 0),
        (("pack", "probe", "steered", "-o", "again.tape"), 0),
        (("pack", "probe", "one.tape", "-o", "again.tape"), 2),
        (("sign", "one.tape", "--message"), 0),
        (("erase", "twice", "--yes"), 2),
        (("erase", "one.tape", "--yes"), 2),
        (("erase", "tokentape.db", "--yes"), 2),
        (("erase", "tokentape.db#probe", "--yes"), 0),
        (("close", "probe", "--force"), 2),
        (("list", "two.tape"), 0),
        (("tag", "probe", "good"), 0),
        (("tag", "one.tape", "good"), 2),
        (("note", "tokentape.db#probe", "odd norms"), 0),
        (("note", "tokentape.db", "odd norms"), 2),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_every_command_takes_them(
    folder: Path, cli: Cli, command: tuple[str, ...], expected: int
) -> None:
    code, _, err = cli(*command)

    assert code == expected, err
    assert (code == 0) == ("tokentape: " not in err)


def test_resuming_a_run_by_its_name_names_its_id(folder: Path, cli: Cli) -> None:
    code, _, err = cli("resume", "steered", "--dry-run")

    assert code == 2
    assert "run aa2 ended before its system prompt" in err


def test_an_ambiguous_name_lists_its_runs(folder: Path, cli: Cli) -> None:
    code, out, err = cli("show", "twice")

    assert (code, out) == (2, "")
    first, *others = err.splitlines()
    assert "2 runs in sqlite:///tokentape.db are named 'twice': give the id of one" in first
    assert [each.split()[0] for each in others] == ["bb1", "bb2"]
    assert all("2027-01-1" in each and each.endswith("finished") for each in others)


@pytest.mark.parametrize("wanted", ["twice", "bb"])
def test_python_lists_the_runs_of_an_ambiguous_name(folder: Path, wanted: str) -> None:
    with (
        tt.open_store(folder / "tokentape.db") as store,
        pytest.raises(tt.NoSuchRunError) as raised,
    ):
        store.recording(wanted)
    _, *others = str(raised.value).splitlines()

    assert [each.split()[0] for each in others] == ["bb1", "bb2"]
    assert all("2027-01-1" in each and each.endswith("finished") for each in others)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_the_newest_run_of_a_live_store_is_named_on_a_terminal_only(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("check")[2] == ""
    monkeypatch.setattr(Screen, "is_terminal", True)
    err = cli("check")[2]

    assert "tokentape.db holds 5 runs: this is the newest, aa1x (cc1); name another with" in err


@pytest.mark.parametrize("command", ["show", "check", "rebuild", "verify", "retrace", "regenerate"])
def test_every_command_names_the_run_of_a_tape_that_it_takes(
    folder: Path, cli: Cli, command: str
) -> None:
    assert "this is the newest, steered (aa2)" in cli(command, "two.tape")[2]
    assert "this is the newest" not in cli(command, "two.tape#aa1")[2]


def test_an_ambiguous_beginning_lists_its_runs(folder: Path, cli: Cli) -> None:
    _, _, err = cli("verify", "aa")
    first, *others = err.splitlines()

    assert "2 runs in sqlite:///tokentape.db begin with 'aa': give more of the id" in first
    assert [each.split()[0] for each in others] == ["aa1", "aa2"]


def test_a_typo_gets_the_nearest_names_and_says_that_no_file_is_there(
    folder: Path, cli: Cli
) -> None:
    code, _, err = cli("show", "porbe")

    assert code == 2
    assert "has no run 'porbe': did you mean 'probe'? `tokentape list` shows its runs" in err
    assert err.rstrip().endswith("there is no file of that name either")


def test_without_a_store_a_missing_file_is_neither(folder: Path, cli: Cli) -> None:
    (folder / "tokentape.db").unlink()
    code, _, err = cli("show", "three.tape")

    assert code == 2
    assert "'three.tape' is neither a run nor a file" in err
    assert "no store at sqlite:///tokentape.db" in err


def test_a_name_of_a_stranger_cannot_write_to_the_screen(folder: Path, cli: Cli) -> None:
    with tt.open_store(folder / "hostile.db") as store:
        assert isinstance(store, DatabaseStore)
        for run_id in ("dd1", "dd2"):
            keep(store, run_id, "\x1b[2J\rprobe\n")
    _, _, ambiguous = cli("show", "hostile.db#dd")
    _, _, typo = cli("show", "hostile.db#probe")

    assert "\x1b" not in ambiguous + typo
    assert ambiguous.count("\n") == 3
    assert typo.count("\n") == 1


def test_many_candidates_are_counted(tmp_path: Path, cli: Cli) -> None:
    with tt.open_store(tmp_path / "many.db") as store:
        assert isinstance(store, DatabaseStore)
        for number in range(12):
            tt.Recorder(store, run_id=f"ee{number:02}").record(run_started(name="again"))
    _, _, err = cli("show", str(tmp_path / "many.db#again"))

    assert "12 runs" in err
    assert "(2 older ones)" in err
    assert err.count("\n") == 12
