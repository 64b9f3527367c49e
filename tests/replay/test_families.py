"""Replay and update of a tape with a resumed run, its fork, and the fork of that."""

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.store.made_families import record_family
from tokentape.commands.replay_requests import Server
from tokentape.recorder.events import RunResumed
from tokentape.replay.rerecord import rerecord
from tokentape.replay.tapes.tape_replayer import list_runs
from tokentape.store import DatabaseStore

Family = tuple[str, str, str]


@pytest.fixture
def family(store: DatabaseStore, tiny_folder: Path) -> Family:
    return record_family(tt.load_model(tiny_folder), store)


@pytest.fixture
def tape(family: Family, store: DatabaseStore, tmp_path: Path) -> Path:
    return tt.pack([store.recording(family[-1])], store, tmp_path / "family.tape")


@pytest.fixture
def louder_folder(
    tmp_path: Path, tiny_folder: Path, altered: Callable[..., tt.LoadedModel]
) -> Path:
    def louder(model: Any) -> None:
        model.lm_head.weight.mul_(1.5)

    other = altered(tt.load_model(tiny_folder), louder)
    other.model.save_pretrained(tmp_path / "louder")
    other.tokenizer.save_pretrained(tmp_path / "louder")
    return tmp_path / "louder"


def ask(tape: Path, **asked: Any) -> dict[str, Any]:
    return Server().answer({"id": 1, "do": "replay", "tape": str(tape), "mode": "verify"} | asked)


def lineages(tape: Path) -> list[tuple[str, int | None]]:
    """Return the name of each run in a tape, and the turn at which it was forked."""
    with tt.open_store(tape) as opened:
        return [(each.name, each.forked_at_turn) for each in opened.summaries()]


FAMILY = [("parent", None), ("fork", 2), ("fork", 3)]


@pytest.mark.parametrize("mode", ["rebuild", "verify", "regenerate"])
def test_every_run_of_a_family_is_replayed_with_its_shared_turns(tape: Path, mode: str) -> None:
    assert [run.turns for run in list_runs(str(tape))] == [(1, 2, 3)] * 3
    answer = ask(tape, mode=mode)

    assert list(answer["runs"]) == ["0", "1", "2"]
    for run in answer["runs"].values():
        assert run["failure"] == ""
        assert list(run["turns"]) == [1, 2, 3]
        assert [turn["failure"] for turn in run["turns"].values()] == [""] * 3


def test_a_turn_of_a_fork_is_regenerated_by_itself(tape: Path) -> None:
    run = ask(tape, mode="regenerate", run=2, turns=[1])["runs"]["2"]

    assert [turn["verdict"] for turn in run["turns"].values()] == ["exact"]


def test_an_update_records_the_family_again(
    tape: Path, louder_folder: Path, store: DatabaseStore, family: Family
) -> None:
    assert lineages(tape) == FAMILY
    before = ask(tape, model=str(louder_folder))["runs"]
    answer = ask(tape, model=str(louder_folder), update=True)

    assert all(run["failure"] for run in before.values())
    assert "was recorded again, and passes" in answer["updated"]
    assert [run["verdict"] for run in answer["runs"].values()] == ["verified"] * 3
    assert lineages(tape) == FAMILY
    with tt.open_store(tape) as opened:
        for old, summary in zip(family, opened.summaries(), strict=True):
            then, now = store.recording(old), opened.recording(summary.run_id)
            assert tt.check(opened, summary.run_id).ok
            said = [each for each in now.conversation() if each["role"] != "assistant"]
            assert said == [each for each in then.conversation() if each["role"] != "assistant"]
            assert [turn.started.seed for turn in now.turns()] == [
                turn.started.seed for turn in then.turns()
            ]
            assert now.conversation() != then.conversation()


@pytest.fixture
def target() -> Iterator[DatabaseStore]:
    with tt.open_store("sqlite://") as opened:
        assert isinstance(opened, DatabaseStore)
        yield opened


def test_a_family_recorded_again_with_the_same_model_says_the_same(
    family: Family, store: DatabaseStore, target: DatabaseStore, tiny_folder: Path
) -> None:
    lm, parent = tt.load_model(tiny_folder), None
    for run_id in family:
        recording = store.recording(run_id)
        parent = target.recording(rerecord(recording, lm, target, parent=parent))
        assert parent.conversation() == recording.conversation()
        assert [turn.prompt_ids for turn in parent.turns()] == [
            turn.prompt_ids for turn in recording.turns()
        ]
        now, then = parent.forked(), recording.forked()
        assert (now is None) == (then is None)
        if now is not None and then is not None:
            assert (now.at_turn, now.changes) == (then.at_turn, then.changes)
    own = [len(list(target.recording(each.run_id).own_events())) for each in target.summaries()]
    assert own[2] < own[1] < own[0]


def test_a_fork_is_recorded_again_by_itself_as_a_run_of_its_own(
    family: Family, store: DatabaseStore, target: DatabaseStore, tiny_folder: Path
) -> None:
    recording = store.recording(family[-1])
    again = target.recording(rerecord(recording, tt.load_model(tiny_folder), target))

    assert again.forked() is None
    assert again.conversation() == recording.conversation()


def test_a_resumed_run_is_recorded_again_without_its_interruption(
    family: Family, store: DatabaseStore, target: DatabaseStore, tiny_folder: Path
) -> None:
    recording = store.recording(family[0])
    again = target.recording(rerecord(recording, tt.load_model(tiny_folder), target))

    assert any(isinstance(each.event, RunResumed) for each in recording.events())
    assert not any(isinstance(each.event, RunResumed) for each in again.events())
    assert again.conversation() == recording.conversation()


def without(tape: Path, run_id: str) -> None:
    """Remove a run from a tape and from its manifest."""
    with zipfile.ZipFile(tape) as archive:
        members = {each: archive.read(each) for each in archive.namelist() if run_id not in each}
    manifest = json.loads(members["manifest.json"])
    manifest["runs"] = [each for each in manifest["runs"] if each["run_id"] != run_id]
    manifest["files"] = {name: manifest["files"][name] for name in members if "/" in name}
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(tape, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_a_fork_without_its_parent_is_one_line_and_the_tape_is_not_changed(
    tape: Path, family: Family, louder_folder: Path
) -> None:
    without(tape, family[1])
    held = tape.read_bytes()
    listed = Server().answer({"id": 1, "do": "list", "tape": str(tape)})
    updated = ask(tape, model=str(louder_folder), update=True)
    replayed = ask(tape)["runs"]

    assert f"has no run '{family[1]}'" in listed["error"]
    assert "its parent cannot be read" in updated["error"]
    assert [run["failure"] == "" for run in replayed.values()] == [True, False]
    assert tape.read_bytes() == held
