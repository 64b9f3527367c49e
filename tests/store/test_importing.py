"""An import adds exactly the recorded events, or nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.store.made_runs import begin, make_run, say
from tokentape.recorder.events import MessageAdded
from tokentape.store import DatabaseStore

Change = Callable[[dict[str, Any]], None]


def changed(path: Path, change: Change) -> None:
    """Rewrite every record of a jsonl file."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_a_copy_whose_events_are_filed_under_another_turn_is_refused(
    store: DatabaseStore, tmp_path: Path
) -> None:
    """No seal covers the turn: it is computed from the events again."""
    recording, path = store.recording(make_run(store)), tmp_path / "run.jsonl"
    tt.export_jsonl([recording], store, path)

    def move(line: dict[str, Any]) -> None:
        if line.get("kind") == "TurnFinished":
            line["turn"] = 99

    changed(path, move)
    with tt.open_store(tmp_path / "other.db") as other:
        with pytest.raises(tt.RecordingError, match="is filed under turn 99, not 1"):
            tt.import_runs(path, other)

        assert other.summaries() == []


def test_a_copy_with_another_end_behind_the_same_seal_is_not_the_same(
    store: DatabaseStore, tmp_path: Path
) -> None:
    recorder = begin(store)
    say(recorder, 1, tokens=2)
    recorder.record(MessageAdded(role="user", content="real", text="real", ids=(1,)))
    path = tmp_path / "run.jsonl"
    tt.export_jsonl([store.recording(recorder.run_id)], store, path)
    with tt.open_store(tmp_path / "other.db") as other:
        assert tt.import_runs(path, other)[0].added
        assert not tt.import_runs(path, other)[0].added

        def move(line: dict[str, Any]) -> None:
            if line.get("kind") == "MessageAdded":
                line["body"]["content"] = "fake"

        changed(path, move)
        with pytest.raises(tt.StoreError, match="already has a different run"):
            tt.import_runs(path, other)
