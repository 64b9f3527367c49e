"""A seal that was noted elsewhere shows what a check of the run alone cannot see."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt
from tests.store.crash import record_script
from tests.store.forging import change_reply, cut_after_turn
from tests.store.made_runs import begin, say
from tokentape.recorder.seals import parse_seal
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]


def last_seal(store: DatabaseStore, run_id: str) -> str:
    seal = tt.check(store, run_id).last_seal
    assert seal is not None
    return seal


@pytest.mark.parametrize("given", [str, str.upper, lambda seal: seal[12:], lambda seal: seal[:28]])
def test_a_run_has_the_seal_that_was_noted(
    store: DatabaseStore, given: Callable[[str], str]
) -> None:
    run_id = record_script(store, "a run", turns=3, seed=1)
    seal = last_seal(store, run_id)

    assert tt.check(store, run_id, expect=f" {given(seal)}\n").ok


def test_a_changed_event_that_was_sealed_again_shows_in_the_last_seal_only(
    store: DatabaseStore,
) -> None:
    run_id = record_script(store, "a run", turns=3, seed=1)
    seal = last_seal(store, run_id)
    change_reply(store, run_id, 2, "what it never said")

    assert tt.check(store, run_id).ok
    found = tt.check(store, run_id, expect=seal)
    assert not found.ok
    assert found.faults == ()
    assert "altered and sealed again" in found.unmet[0]


def test_a_missing_end_shows_in_the_last_seal_only(store: DatabaseStore) -> None:
    run_id = record_script(store, "a run", turns=3, seed=1)
    seal = last_seal(store, run_id)
    cut_after_turn(store, run_id, 2)

    assert tt.check(store, run_id).ok
    assert "its end is missing" in tt.check(store, run_id, expect=seal).unmet[0]


def test_the_seal_of_an_earlier_turn_is_named_as_such(store: DatabaseStore) -> None:
    recorder = begin(store)
    say(recorder, 1, tokens=2)
    seal = last_seal(store, recorder.run_id)
    events = tt.check(store, recorder.run_id).events
    say(recorder, 2, tokens=2)
    say(recorder, 3, tokens=2)

    (unmet,) = tt.check(store, recorder.run_id, expect=seal).unmet
    assert unmet == (
        "the run was continued after the expected seal: its first "
        f"{events} events, up to turn 1, are as expected, the 10 events after them, up to turn 3, "
        "are not covered"
    )


@pytest.mark.parametrize(
    "text", ["", "blake2b-256:", "0123456789abcde", "g" * 64, "0" * 65, "sha256:" + "0" * 64]
)
def test_a_text_that_is_no_seal_is_bad_input(store: DatabaseStore, text: str) -> None:
    run_id = record_script(store, "a run", turns=1, seed=1)

    with pytest.raises(tt.TokentapeError, match="is no seal"):
        tt.check(store, run_id, expect=text)


def test_sixteen_digits_are_enough() -> None:
    assert parse_seal("0123456789ABCDEF") == "blake2b-256:0123456789abcdef"


def test_every_command_prints_the_seal_that_check_expects(tmp_path: Path, cli: Cli) -> None:
    where = tmp_path / "runs.db"
    with tt.open_store(where) as store:
        assert isinstance(store, DatabaseStore)
        run_id = record_script(store, "a run", turns=2, seed=1)
        seal = last_seal(store, run_id)
    tape = tmp_path / "a.tape"

    packed = cli("pack", run_id, "--store", str(where), "--output", str(tape))
    assert packed == (0, f"{tape}\n", f"run {run_id}: last seal {seal}\n")
    for store_path in (str(where), str(tape)):
        at = ("--store", store_path)
        assert seal in cli("show", *at)[1]
        assert json.loads(cli("show", "--json", *at)[1])["last_seal"] == seal
        assert seal in cli("check", *at)[1]
        assert json.loads(cli("check", "--json", *at)[1])["last_seal"] == seal
        assert cli("check", "--expect", seal, *at)[0] == 0
        assert cli("check", "--seal", seal[:28], *at)[0] == 0
        code, text, _ = cli("check", "--expect", "0" * 64, *at)
        assert (code, "as recorded, but NOT as expected" in text) == (1, True)
        code, out, message = cli("check", "--expect", "0" * 15, *at)
        assert (code, out, "is no seal" in message) == (2, "", True)


def test_a_run_without_a_seal_shows_none(tmp_path: Path, cli: Cli) -> None:
    where = tmp_path / "runs.db"
    with tt.open_store(where) as store:
        begin(store)
    assert "none yet" in cli("show", "--store", str(where))[1]
    assert cli("check", "--expect", "0" * 64, "--store", str(where))[0] == 1
