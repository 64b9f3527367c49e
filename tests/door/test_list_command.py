"""`tokentape list` shows when runs began, and lists those that fulfil conditions."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import tokentape as tt
from tests.store.made_runs import make_run
from tests.store.test_run_search import NOW_US, fill
from tokentape.store import DatabaseStore
from tokentape.store.run_names import local_time

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("listed") / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        fill(store)
        store.note("aa", "norms grow\nfrom layer 3")
    return path


def listed(text: str) -> list[str]:
    """Return the first word of each line below the heading."""
    return [line.split()[0] for line in text.splitlines()[1:]]


def test_dates_tags_and_notes_are_listed(path: Path, cli: Cli) -> None:
    heading, *rows = cli("list", str(path))[1].splitlines()

    assert heading.split()[:4] == ["run", "started", "name", "model"]
    assert heading.split()[-2:] == ["tags", "note"]
    assert local_time(NOW_US) in rows[0]
    assert rows[0].rstrip().endswith("good, old  norms grow")
    assert "layer 3" not in rows[0]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--said", "ZÜRICH"), "aa"),
        (("--name", "probe", "--protocol", "phase1b"), "bb"),
        (("--tag", "good", "--tag", "old"), "aa"),
        (("--since", "2027-01-16", "--until", "2027-01-16"), "bb"),
        (("--status", "finished", "--model", "llama", "-n", "1"), "bb"),
        (("--said", "no such words"), ""),
    ],
    ids=" ".join,
)
def test_conditions_narrow_the_list(
    path: Path, cli: Cli, options: tuple[str, ...], found: str
) -> None:
    code, out, _ = cli("list", str(path), *options)
    rows = json.loads(cli("list", str(path), "--json", *options)[1])

    assert code == 0
    if "-n" not in options:
        assert listed(out) == found.split()
        assert [row["run_id"] for row in rows] == found.split()
    else:
        assert listed(out) == [found]


def test_a_list_without_runs_says_why(path: Path, tmp_path: Path, cli: Cli) -> None:
    none = cli("list", str(path), "--said", "no such words")
    tt.open_store(tmp_path / "empty.db").close()
    empty = cli("list", str(tmp_path / "empty.db"))

    assert none == (0, "", f"no run matches: 3 runs in sqlite:///{path}\n")
    assert empty == (0, "", f"sqlite:///{tmp_path / 'empty.db'} holds no run\n")
    assert cli("list", str(path), "--said", "no such words", "--json") == (0, "[]\n", "")


def test_show_names_the_plan_of_a_run(path: Path, cli: Cli) -> None:
    shown = {run: cli("show", f"{path}#{run}")[1] for run in ("aa", "bb")}

    assert "\n  plan             phase1b\n" in shown["bb"]
    assert "\n  plan " not in shown["aa"]


def test_a_condition_that_means_nothing_is_one_line(path: Path, cli: Cli) -> None:
    code, out, err = cli("list", str(path), "--since", "yesterday")

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "'yesterday' is no time" in err


def test_a_narrow_terminal_shows_dates_and_beginnings_that_name_the_runs(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = "3b2-a46f-232f6bcb4ed1"
    ids = [f"01a21cf6-b8bb-7{rest}", f"01a21cf6-b8bb-8{rest}", f"01b21cf6-b8bb-7{rest}"]
    path = str(tmp_path / "runs.db")
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        for run_id in ids:
            make_run(store, turns=1, run_id=run_id)
    whole = listed(cli("list", path)[1])
    monkeypatch.setattr("tokentape.screen._PIPE_COLUMNS", 80)
    heading, *_ = (out := cli("list", path)[1]).splitlines()

    assert whole == ids
    assert "started" in heading
    shown = [each for each in listed(out) if each.startswith("01")]
    assert shown == ["01a21cf6-b8bb-7", "01a21cf6-b8bb-8", "01b21cf6-b8bb"]
    assert [
        json.loads(cli("show", f"{path}#{each}", "--json")[1])["run_id"] for each in shown
    ] == ids


def test_forged_tags_do_not_write_to_the_screen(path: Path, cli: Cli, tmp_path: Path) -> None:
    forged = tmp_path / "forged.db"
    forged.write_bytes(path.read_bytes())
    with closing(sqlite3.connect(forged)) as connection:
        connection.execute(
            "INSERT INTO run_labels SELECT run_key, 1, 'x', 'tag', char(27) || '[2J' FROM runs"
        )
        connection.execute(
            "INSERT INTO run_labels SELECT run_key, 2, 'x', 'note', char(155, 10) FROM runs"
        )
        connection.commit()
    code, out, _ = cli("list", str(forged))

    assert (code, len(listed(out))) == (0, 3)
    assert "\x1b" not in out
    assert "\x9b" not in out


def test_help_names_the_store_and_the_tag(cli: Cli) -> None:
    told = cli("list", "--help")[1]

    assert "[OPTIONS] [STORE]\n" in told
    assert "--tag TAG" in told
