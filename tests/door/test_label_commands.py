"""`tokentape tag` and `note` label a run, and `show` and copies have the labels."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt
from tests.store.made_runs import make_run
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with tt.open_store("tokentape.db") as store:
        assert isinstance(store, DatabaseStore)
        make_run(store, turns=1, run_id="aa1")
    return tmp_path


def test_a_run_is_tagged_and_noted(path: Path, cli: Cli) -> None:
    assert cli("tag", "aa1", "good", "seed-7")[1] == "run aa1: good, seed-7\n"
    assert cli("tag", "aa1", "--remove", "good")[1] == "run aa1: seed-7\n"
    assert json.loads(cli("tag", "aa1", "--json")[1]) == {"run_id": "aa1", "tags": ["seed-7"]}
    assert cli("note", "aa1", "norms grow\nfrom layer 3") == (0, "", "")
    assert cli("note", "aa1")[1] == "norms grow\nfrom layer 3\n"
    shown = cli("show", "aa1")[1]
    assert "\n  tags             seed-7\n" in shown
    assert "\n  note             norms grow\n                   from layer 3\n" in shown
    found = json.loads(cli("show", "aa1", "--json")[1])
    assert (found["tags"], found["note"]) == (["seed-7"], "norms grow\nfrom layer 3")
    cli("tag", "aa1", "-r", "seed-7")
    cli("note", "aa1", "")
    shown = cli("show", "aa1")[1]
    assert "  tags" not in shown
    assert "  note" not in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("tag", "aa1", "a b"), "a tag is one word of 1 to 80 printable characters"),
        (("tag", "aa1", "\x1b[2J"), "a tag is one word"),
        (("tag", "aa1", "new", "-r", "none"), "has no tag 'none': it has none"),
        (("tag", "bb", "x"), "has no run 'bb'"),
        (("note", "aa1", "\x07"), "a note has printable characters"),
    ],
)
def test_a_bad_label_is_one_line_and_changes_nothing(
    path: Path, cli: Cli, arguments: tuple[str, ...], complaint: str
) -> None:
    code, out, err = cli(*arguments)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert "\x1b" not in err
    with tt.open_store("tokentape.db") as store:
        assert store.labels("aa1") == []
