"""Forks say what they were forked from, and whether with another model, in `list` and `show`."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.made_events import run_started
from tests.tampering import without_triggers
from tokentape.recorder.events import RunForked

Cli = Callable[..., tuple[int, str, str]]


def _louder(model: Any) -> None:
    model.lm_head.weight.mul_(1.5)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture
def family(
    lm: tt.LoadedModel, altered: Callable[..., tt.LoadedModel], url: str
) -> tuple[str, str, str]:
    """A run, its fork at token 3 of turn 2 onto another model, and a fork with the same model."""
    other = altered(lm, _louder)
    with tt.open_store(url) as store:
        with tt.Investigation(
            lm, store=store, name="probe", system_prompt="Be kind.", seed=4
        ) as run:
            run.chat("One?", max_new_tokens=6)
            run.chat("Two?", max_new_tokens=6)
        ids = [run.run_id]
        for model, at_token in ((other, 3), (lm, None)):
            fork = tt.Investigation.fork(
                store, run.run_id, model, at_turn=2, at_token=at_token, other_model=True
            )
            with fork:
                fork.chat("Three?", max_new_tokens=4)
            ids.append(fork.run_id)
    return ids[0], ids[1], ids[2]


@pytest.mark.parametrize("columns", ["80", "160"])
def test_a_list_says_what_forks_are_of_and_which_have_another_model(
    cli: Cli,
    url: str,
    family: tuple[str, str, str],
    columns: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    parent, other, same = family

    code, out, err = cli("list", url)

    assert code == 0, err
    words = " ".join(out.split())
    assert "fork of" in words
    assert "not shown" not in out or "fork of" not in out.split("not shown")[1]
    assert out.count("other") == 1
    for needed in (parent[:13], "turn 2, token 3," if columns == "160" else "token 3"):
        assert needed in words
    rows = {each["run_id"]: each for each in json.loads(cli("list", url, "--json")[1])}
    assert "other_model" not in rows[parent]
    assert (rows[other]["other_model"], rows[other]["forked_at_token"]) == (["weights"], 3)
    assert (rows[same]["other_model"], rows[same]["forked_at_token"]) == ([], None)


def test_show_and_diff_say_where_a_fork_left_its_parent_and_with_which_model(
    cli: Cli, url: str, family: tuple[str, str, str]
) -> None:
    parent, other, same = family
    origin = f"run {parent} at turn 2, token 3, with another model (weights)\n"

    assert f"  forked from      {origin}" in cli("show", other, "--store", url)[1]
    assert f"  forked from      run {parent} at turn 2\n" in cli("show", same, "--store", url)[1]
    assert "forked from" not in cli("show", parent, "--store", url)[1]
    forked = json.loads(cli("show", other, "--store", url, "--json")[1])["forked"]
    assert (forked["at_token"], forked["other_model"]) == (3, ["weights"])
    assert json.loads(cli("show", parent, "--store", url, "--json")[1])["forked"] is None

    assert f"forked from {origin}" in cli("diff", parent, other, "--store", url)[1]
    compared = json.loads(cli("diff", parent, other, "--store", url, "--json")[1])
    assert (compared["a"]["other_model"], compared["b"]["other_model"]) == ([], ["weights"])


@pytest.mark.parametrize("damage", ["body = '{'", "version = 99"])
def test_a_list_shows_a_fork_whose_beginning_is_damaged(
    cli: Cli, url: str, family: tuple[str, str, str], damage: str
) -> None:
    path = url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection, without_triggers(connection):
        connection.execute(f"UPDATE events SET {damage} WHERE kind = 'RunForked'")

    code, out, err = cli("list", url)

    assert code == 0, err
    assert " ".join(out.split()).count("turn 2") == 2
    assert "other_model" not in cli("list", url, "--json")[1]


def test_a_list_says_the_parent_of_a_fork_that_is_not_stored(cli: Cli, tmp_path: Path) -> None:
    url, parent_run_id = f"sqlite:///{tmp_path}/runs.db", "0198f0c1-2345-7abc-8def-0123456789ab"
    forked = RunForked(
        parent_run_id=parent_run_id, parent_seq=4, parent_hash="", at_turn=2, changes={}
    )
    with tt.open_store(url) as store:
        recorder = tt.Recorder(store)
        recorder.record(run_started())
        recorder.record(forked)

    code, out, err = cli("list", url)

    assert code == 0, err
    assert f"{parent_run_id[:13]} at turn 2" in " ".join(out.split())
