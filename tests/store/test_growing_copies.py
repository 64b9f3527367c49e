"""Newer copies of runs and forks extend older ones, and nothing is lost."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import tokentape as tt
from tests.store.made_families import RESUMED, fork, go_on, resume, short_run
from tests.store.made_runs import begin, floor_of, make_run, say, verdict_of
from tokentape.recorder.events import MessageAdded
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]
FORMS = ("tape", "parquet", "jsonl")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[DatabaseStore]:
    with tt.open_store(tmp_path / "other.db") as opened:
        assert isinstance(opened, DatabaseStore)
        yield opened


def copied(store: DatabaseStore, run_id: str, path: Path) -> Path:
    """A copy of a run as it is now; the end of its name says in which form."""
    recording = store.recording(run_id)
    if path.suffix == ".tape":
        return tt.pack([recording], store, path)
    if path.suffix == ".jsonl":
        return tt.export_jsonl([recording], store, path)
    tt.export_parquet(recording, store, path)
    return path


def grown_since(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path, *, tokens: int = 2
) -> str:
    """A run of two turns that took a third since the other store got a copy of it."""
    run_id = short_run(store)
    tt.import_runs(copied(store, run_id, tmp_path / "older.tape"), other)
    go_on(store, run_id, 3, tokens=tokens)
    return run_id


def dump(store: DatabaseStore) -> dict[str, object]:
    """All that a store has, run by run."""
    return {
        each.run_id: (each, list(store.recording(each.run_id).records()))
        for each in store.summaries()
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_run_that_has_grown_since_its_older_copy_came_goes_on_in_the_store(
    form: str, store: DatabaseStore, other: DatabaseStore, tmp_path: Path
) -> None:
    run_id = short_run(store)
    older = copied(store, run_id, tmp_path / f"older.{form}")
    go_on(store, run_id, 3)
    store.add_verdict(verdict_of(run_id))
    store.add_floor(floor_of(run_id))
    newer = copied(store, run_id, tmp_path / f"newer.{form}")

    (first,) = tt.import_runs(older, other)
    (grown,) = tt.import_runs(newer, other)
    (again,) = tt.import_runs(newer, other)
    (late,) = tt.import_runs(older, other)

    assert (first.added_events, grown.added_events) == (first.events, grown.events - first.events)
    assert [each.added for each in (first, grown, again, late)] == [True, True, False, False]
    assert late == again == replace(grown, added=False, added_events=0)
    assert dump(other) == dump(store)
    assert other.verdicts(run_id) == store.verdicts(run_id)
    assert other.floors(run_id) == store.floors(run_id)
    assert other.blob(payload_of(other, run_id, 3)) == b"payload 3"
    assert tt.check(other, run_id).ok


def payload_of(store: DatabaseStore, run_id: str, turn: int) -> str:
    frame = tt.tools_df(store, run_id, turns=turn)
    return str(frame["payload_sha256"].iloc[0])


def test_a_run_grows_in_postgresql_too(
    store: DatabaseStore, postgres_url: str, tmp_path: Path
) -> None:
    run_id = short_run(store)
    older = copied(store, run_id, tmp_path / "older.tape")
    go_on(store, run_id, 3)
    newer = copied(store, run_id, tmp_path / "newer.tape")
    with tt.open_store(postgres_url) as other:
        assert isinstance(other, DatabaseStore)
        assert [tt.import_runs(each, other)[0].added for each in (older, newer, older)] == [
            True,
            True,
            False,
        ]
        assert dump(other) == dump(store)


def test_a_run_that_was_cut_off_in_a_copy_goes_on_where_it_was_cut(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path
) -> None:
    """Lines of JSON have what no seal vouches for yet: that is compared as well."""
    recorder = begin(store)
    say(recorder, 1, tokens=2)
    recorder.record(MessageAdded(role="user", content="And?", text="And?", ids=(1,)))
    older = copied(store, recorder.run_id, tmp_path / "older.jsonl")
    sealed = copied(store, recorder.run_id, tmp_path / "sealed.tape")
    say(recorder, 2, tokens=2)
    newer = copied(store, recorder.run_id, tmp_path / "newer.tape")

    tt.import_runs(older, other)
    assert not tt.import_runs(sealed, other)[0].added
    assert tt.import_runs(newer, other)[0].added
    assert dump(other) == dump(store)

    fake = tmp_path / "fake.jsonl"
    fake.write_text(older.read_text(encoding="utf-8").replace('"And?"', '"But?"'))
    with tt.open_store("sqlite://") as third:
        assert isinstance(third, DatabaseStore)
        tt.import_runs(fake, third)
        with pytest.raises(tt.StoreError, match="already has a different run"):
            tt.import_runs(newer, third)
        assert len(list(third.recording(recorder.run_id).records())) == len(
            fake.read_text(encoding="utf-8").splitlines()
        )


def test_of_two_copies_that_went_on_apart_neither_is_added_to_the_other(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path, cli: Cli
) -> None:
    run_id = grown_since(store, other, tmp_path, tokens=4)
    go_on(other, run_id, 3)
    go_on(other, run_id, 4)
    before = dump(other)
    tape = copied(store, run_id, tmp_path / "apart.tape")

    with pytest.raises(tt.StoreError, match="neither begins with the other"):
        tt.import_runs(tape, other)
    code, out, err = cli("import", str(tape), "--store", other.where)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert dump(other) == before


def test_the_command_line_says_what_came(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path, cli: Cli
) -> None:
    run_id = short_run(store)
    older = copied(store, run_id, tmp_path / "older.tape")
    go_on(store, run_id, 3)
    newer = copied(store, run_id, tmp_path / "newer.tape")
    told = [cli("import", str(each), "--store", other.where)[1] for each in (older, newer, older)]
    events = len(list(store.recording(run_id).records()))

    assert told[0].startswith(f"{run_id}  added, ")
    assert told[1].endswith(f" events added, {events} in all\n")
    assert told[2] == f"{run_id}  there already, {events} events\n"
    code, out, _ = cli("import", str(newer), "--store", other.where, "--json")
    assert (code, json.loads(out)[0]["added_events"]) == (0, 0)


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_two_forks_of_one_parent_come_in_either_order(
    order: tuple[str, str], store: DatabaseStore, other: DatabaseStore, tmp_path: Path
) -> None:
    """The tape of each includes the parent at the time of packing."""
    parent = short_run(store)
    tapes = {"first": tmp_path / "first.tape", "second": tmp_path / "second.tape"}
    copied(store, fork(store, parent, at_turn=2), tapes["first"])
    go_on(store, parent, 3)
    second = fork(store, parent, at_turn=4)
    copied(store, second, tapes["second"])
    for each in order:
        tt.import_runs(tapes[each], other)

    assert dump(other) == dump(store)
    assert all(tt.check(other, each.run_id).ok for each in other.summaries())
    assert [turn.number for turn in other.recording(second).turns()] == [1, 2, 3, 4]


def test_a_fork_without_its_parent_is_refused_and_with_it_in_the_store_it_comes(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path
) -> None:
    parent = short_run(store)
    early = copied(store, parent, tmp_path / "early.tape")
    go_on(store, parent, 3)
    folder = copied(store, fork(store, parent, at_turn=4), tmp_path / "sealed")
    for each in folder.glob(f"*/*/run_id={parent}"):
        shutil.rmtree(each)

    with pytest.raises(tt.RecordingError, match=f"and its parent, run {parent}, is missing"):
        tt.import_runs(folder, other)
    assert other.summaries() == []
    tt.import_runs(early, other)
    with pytest.raises(tt.RecordingError, match=r"has only \d+ of the \d+ events that they share"):
        tt.import_runs(folder, other)
    tt.import_runs(copied(store, parent, tmp_path / "later.tape"), other)
    tt.import_runs(folder, other)
    assert dump(other) == dump(store)


def test_a_fork_of_something_else_under_its_parent_s_id_is_refused(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path
) -> None:
    parent = make_run(store, turns=2)
    child = fork(store, parent, at_turn=2)
    make_run(other, turns=2, run_id=parent)
    lines = copied(store, child, tmp_path / "fork.jsonl")
    told = lines.read_text().splitlines(True)
    lines.write_text("".join(line for line in told if json.loads(line)["run_id"] == child))
    before = dump(other)

    with pytest.raises(tt.RecordingError, match="differs from the run that it was forked from"):
        tt.import_runs(lines, other)
    assert dump(other) == before


def test_what_was_erased_stays_away_with_all_that_comes_along(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path
) -> None:
    stranger, parent = make_run(store), short_run(store)
    first = copied(store, parent, tmp_path / "parent.tape")
    go_on(store, parent, 3)
    child = store.recording(fork(store, parent, at_turn=2))
    family = tt.pack([store.recording(stranger), child], store, tmp_path / "family.tape")
    tt.import_runs(first, other)
    other.erase(parent)

    with pytest.raises(tt.StoreError, match=f"run {parent} was erased"):
        tt.import_runs(family, other)
    assert other.summaries() == []


def test_a_redacted_run_grows_like_any_other(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path, lm: tt.LoadedModel
) -> None:
    with tt.Investigation(
        lm, store=store, name="r", system_prompt="Be kind.", redactor=lambda text: "x"
    ) as run:
        run.chat("Hello", max_new_tokens=2)
        older = copied(store, run.run_id, tmp_path / "older.tape")
        run.chat("Again", max_new_tokens=2)
    with pytest.raises(tt.PromptError, match="redacted"):
        tt.Investigation.fork(store, run.run_id, lm, at_turn=2)
    tt.import_runs(older, other)
    tt.import_runs(copied(store, run.run_id, tmp_path / "newer.tape"), other)

    assert dump(other) == dump(store)


def test_whoever_records_a_run_that_grew_beneath_him_is_told(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path
) -> None:
    run_id = grown_since(store, other, tmp_path)
    newer = copied(store, run_id, tmp_path / "newer.tape")
    recorder = tt.Recorder.resume(other, other.recording(run_id))
    tt.import_runs(newer, other)

    with pytest.raises(tt.StoreError, match="a run has one writer"):
        recorder.record(RESUMED)
    assert dump(other) == dump(store)
    go_on(other, run_id, 4)
    assert other.summaries()[0].turns == 4
    assert tt.check(other, run_id).ok


def test_a_run_that_was_written_to_since_it_was_looked_at_is_left_alone(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path
) -> None:
    run_id = grown_since(store, other, tmp_path)
    events_there = len(list(other.recording(run_id).records()))
    resume(other, run_id)
    before = dump(other)
    for wrong in (events_there, events_there + 2):
        with pytest.raises(tt.StoreError, match="another process is writing to run"):
            other.import_run(store.recording(run_id), store, events_there=wrong)
    assert dump(other) == before


def test_a_payload_that_is_missing_leaves_the_run_as_it_was(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path
) -> None:
    run_id = grown_since(store, other, tmp_path)
    newer = copied(store, run_id, tmp_path / "newer.jsonl")
    lines = newer.read_text().splitlines(True)
    last = max(place for place, line in enumerate(lines) if "payload" in json.loads(line))
    newer.write_text("".join(lines[:last] + lines[last + 1 :]))
    before = dump(other)

    with pytest.raises(tt.StoreError, match="has no blob"):
        tt.import_runs(newer, other)
    assert dump(other) == before


def test_an_older_copy_never_takes_the_place_of_a_newer_one(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path
) -> None:
    """Neither in a folder nor in a tape, where a fork may bring it along."""
    parent = grown_since(store, other, tmp_path)
    folder = copied(store, parent, tmp_path / "sealed")
    tape = copied(store, parent, tmp_path / "newer.tape")
    held, files = tape.read_bytes(), sorted(folder.rglob("*.parquet"))
    child = fork(other, parent, at_turn=2)

    assert tt.export_parquet(other.recording(parent), other, folder) == []
    assert sorted(folder.rglob("*.parquet")) == files
    tt.export_parquet(other.recording(child), other, folder)
    with tt.open_store(folder) as sealed:
        assert list(sealed.recording(parent).records()) == list(store.recording(parent).records())
        assert [tt.check(sealed, each).faults for each in (parent, child)] == [(), ()]
        assert sealed.recording(child).turns() == other.recording(child).turns()
    with pytest.raises(
        tt.StoreError, match=f"has more events of run {parent} than would be packed"
    ):
        tt.pack([other.recording(child)], other, tape)
    assert tape.read_bytes() == held


def test_a_fork_whose_past_has_no_seal_yet_is_not_copied_without_it(
    store: DatabaseStore, other: DatabaseStore, tmp_path: Path
) -> None:
    """Nothing of a copy of it could be read back."""
    parent = short_run(store)
    recorder = resume(store, parent)
    child = store.recording(fork(store, parent, at_turn=3))
    for refused in (
        lambda: tt.pack([child], store, tmp_path / "fork.tape"),
        lambda: tt.export_parquet(child, store, tmp_path / "sealed"),
    ):
        with pytest.raises(tt.RecordingError, match="of those have a seal"):
            refused()
    assert [each.name for each in tmp_path.iterdir() if each.name[0] != "o"] == []
    lines = tt.export_jsonl([child], store, tmp_path / "fork.jsonl")
    tt.import_runs(lines, other)
    assert other.recording(child.run_id).turns() == child.turns()

    recorder.finish()
    tt.pack([child], store, tmp_path / "fork.tape")
