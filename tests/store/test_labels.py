"""Tags and notes belong to a run until it is erased, whatever is copied or forged."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

import tokentape as tt
from tests.store.made_runs import make_run
from tests.store.test_migrations import released_store
from tokentape.recorder.clock import now_us
from tokentape.store import DatabaseStore, StoredLabel
from tokentape.store.labels import Labels, fold_labels

SECRET = "tag-of-a-secret"
TAGGER = """
import sys
from tokentape.store import open_store

with open_store(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(30):
        store.tag("tagged", f"{sys.argv[2]}-{number}", "both")
"""


def labels_of(store: DatabaseStore, run_id: str) -> Labels:
    return store.labels_by_run().get(run_id, Labels())


def test_tags_are_added_and_removed_and_a_note_is_replaced(live_store: DatabaseStore) -> None:
    run_id = make_run(live_store, turns=1)
    seal = tt.check(live_store, run_id).last_seal
    live_store.tag(run_id, "b", "a", "b")
    live_store.tag(run_id[:-1], "c")
    live_store.untag(run_id, "b")
    live_store.note(run_id, "one")
    live_store.note(run_id, "two\nlines")
    rows = len(live_store.labels(run_id))
    live_store.tag(run_id, "a", "c")
    live_store.note(run_id, "two\nlines")

    assert labels_of(live_store, run_id) == Labels(tags=("a", "c"), note="two\nlines")
    assert len(live_store.labels(run_id)) == rows == 6
    with live_store._engine.connect() as connection:
        (viewed,) = connection.execute(text("SELECT tags, note FROM runs_df")).all()
    assert tuple(viewed) == ("a, c", "two\nlines")
    live_store.tag(run_id, "b")
    live_store.note(run_id, "")
    assert labels_of(live_store, run_id) == Labels(tags=("a", "b", "c"))
    with live_store._engine.connect() as connection:
        (viewed,) = connection.execute(text("SELECT tags, note FROM runs_df")).all()
    assert tuple(viewed) == ("a, b, c", "")
    found = tt.check(live_store, run_id)
    assert (found.ok, found.last_seal) == (True, seal)


@pytest.mark.parametrize(
    "tag",
    ["", "two words", "a,b", "x" * 81, "\x1b[2J", "a\nb", "\u202e", "\x00", "\ud800", "a\xa0b"],
)
def test_a_tag_is_one_word_that_can_be_seen(store: DatabaseStore, tag: str) -> None:
    run_id = make_run(store, turns=1)
    with pytest.raises(tt.StoreError, match="a tag is one word") as raised:
        store.tag(run_id, "fine", tag)

    assert str(raised.value).isprintable()
    assert store.labels(run_id) == []


@pytest.mark.parametrize("note", ["x" * 10_001, "\x1b[2J", "\x00", "a\rb", "\ud800"])
def test_a_note_is_text_that_can_be_seen(store: DatabaseStore, note: str) -> None:
    run_id = make_run(store, turns=1)
    with pytest.raises(tt.StoreError, match="a note has"):
        store.note(run_id, note)

    assert store.labels(run_id) == []


def test_only_tags_that_a_run_has_are_removed(store: DatabaseStore) -> None:
    run_id = make_run(store, turns=1)
    with pytest.raises(tt.StoreError, match="has no tag 'a': it has none"):
        store.untag(run_id, "a")
    store.tag(run_id, "b", "c")
    with pytest.raises(tt.StoreError, match="has no tag 'a': its tags are b, c"):
        store.untag(run_id, "b", "a")
    assert labels_of(store, run_id).tags == ("b", "c")


def test_a_clock_that_was_set_back_changes_no_order(store: DatabaseStore) -> None:
    run_id = make_run(store, turns=1)
    later = now_us() + 10**12
    store.add_attachment(StoredLabel(run_id=run_id, at_us=later, label="tag", text="a"))
    store.untag(run_id, "a")

    assert labels_of(store, run_id).tags == ()


@given(st.lists(st.tuples(st.sampled_from(["tag", "untag", "note"]), st.sampled_from("abc"))))
def test_the_last_label_about_a_tag_decides(changes: list[tuple[str, str]]) -> None:
    rows = [
        StoredLabel(run_id="r", at_us=at_us, label=label, text=said)
        for at_us, (label, said) in enumerate(changes)
    ]
    tags: set[str] = set()
    for label, said in changes:
        tags = tags | {said} if label == "tag" else tags - {said} if label == "untag" else tags
    found = fold_labels(rows).get("r", Labels())

    assert found.tags == tuple(sorted(tags))
    assert found.note == next((said for kind, said in reversed(changes) if kind == "note"), "")


def test_two_processes_tag_a_run_at_once(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        make_run(store, turns=1, run_id="tagged")
        taggers = [
            subprocess.Popen(
                [sys.executable, "-c", TAGGER, str(path), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in ("one", "two")
        ]
        for each in taggers:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        assert [each.communicate("\n") for each in taggers] == [("", "")] * 2

        expected = {f"{name}-{number}" for name in ("one", "two") for number in range(30)}
        assert set(labels_of(store, "tagged").tags) == expected | {"both"}
        assert tt.check(store, "tagged").ok


def test_erasing_a_run_leaves_no_byte_of_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        run_id, other_id = make_run(store, turns=1), make_run(store, turns=1)
        store.tag(run_id, SECRET)
        store.note(run_id, f"a note {SECRET} " * 400)
        store.tag(other_id, "kept")
        assert any(SECRET.encode() in each.read_bytes() for each in tmp_path.iterdir())
        assert store.erase(run_id).residue == ""

        assert not any(SECRET.encode() in each.read_bytes() for each in tmp_path.iterdir())
        assert store.labels_by_run() == {other_id: Labels(tags=("kept",))}


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO run_labels SELECT run_key, 1, 'x', 'tag', char(27) || '[2J' FROM runs",
        "INSERT INTO run_labels SELECT run_key, 1, 'x', 'tag', x'ff00' FROM runs",
        "INSERT INTO run_labels SELECT run_key, 1, 'x', 7, 7.5 FROM runs",
        "INSERT INTO run_labels SELECT run_key, -1, 'x', 'note', 'plausible' FROM runs",
        "INSERT INTO run_labels SELECT run_key, 1, 'x', 'steal', 'plausible' FROM runs",
    ],
)
def test_a_forged_label_is_a_fault_of_the_run_and_stops_no_list(
    tmp_path: Path, statement: str
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        run_id = make_run(store, turns=1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    with tt.open_store(path) as store:
        assert len(tt.runs_df(store)) == 1
        found = tt.check(store, run_id)
        assert not found.ok
        assert "a row of run_labels" in found.faults[0]
        with pytest.raises(tt.StoreError):
            store.labels(run_id)


def test_a_store_of_the_first_release_takes_labels_when_it_is_upgraded(tmp_path: Path) -> None:
    path = released_store(tmp_path, "0.1.0")
    with tt.open_store(path, upgrade=True) as store:
        assert isinstance(store, DatabaseStore)
        run_id = store.summaries()[0].run_id
        assert set(tt.runs_df(store)["tags"]) == {""}
        store.tag(run_id, "old")
        assert labels_of(store, run_id).tags == ("old",)
