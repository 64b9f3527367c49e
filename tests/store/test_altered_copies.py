"""A run that `check` refuses is neither imported, packed, sealed nor resumed."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.store.crash import Script, record_item, record_script
from tests.store.test_importing import changed
from tokentape.recorder import Record
from tokentape.recorder.events import MessageAdded
from tokentape.recorder.seals import SealChain
from tokentape.store import DatabaseStore


def resealed(recording: tt.Recording, change: dict[str, Any]) -> list[Record]:
    """The records with another body of the second message, under right seals."""
    chain, records = SealChain(recording.run_id), []
    for record in recording.records():
        if record.kind == "MessageAdded" and record.turn == 2 and isinstance(record.body, str):
            body = json.loads(record.body) | change
            record = replace(record, body=json.dumps(body, sort_keys=True, separators=(",", ":")))
        if record.seal is not None:
            record = replace(record, seal=chain.seal_of(replace(record, seal=None)))
        chain.add(record)
        records.append(record)
    return records


@pytest.mark.parametrize("change", [{"ids": []}, {"ids": [2**31]}, {"role": 3}, {"text": ""}])
def test_an_import_refuses_what_check_refuses(
    store: DatabaseStore, tmp_path: Path, change: dict[str, Any]
) -> None:
    """The seals are right, and the events contradict each other or have wrong values."""
    recording = store.recording(record_script(store, "a run"))
    records = resealed(recording, change)
    altered = tt.Recording(recording.run_id, lambda: iter(records))
    path = tt.export_jsonl([altered], store, tmp_path / "run.jsonl")
    with tt.open_store("sqlite://") as other:
        with pytest.raises(tt.RecordingError, match=f"run {recording.run_id}"):
            tt.import_runs(path, other)
        assert other.summaries() == []


def test_a_payload_that_was_altered_is_refused(store: DatabaseStore, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    tt.export_jsonl([store.recording(record_script(store, "a run"))], store, path)

    def alter(line: dict[str, Any]) -> None:
        if line.get("kind") == "ToolReturned":
            line["body"]["payload_bytes"] += 1

    changed(path, alter)
    with tt.open_store("sqlite://") as other:
        with pytest.raises(tt.RecordingError, match="is altered"):
            tt.import_runs(path, other)
        assert other.summaries() == []


def test_a_run_with_broken_seals_is_neither_packed_nor_sealed_nor_resumed(tmp_path: Path) -> None:
    database = tmp_path / "runs.db"
    with tt.open_store(database) as store:
        assert isinstance(store, DatabaseStore)
        recorder = tt.Recorder(store)
        for item in Script("a run", 1).turns(2):
            record_item(recorder, item)
        recorder.finish()
    with sqlite3.connect(database) as rows:
        (trigger,) = rows.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'events_refuse_update'"
        ).fetchone()
        rows.execute("DROP TRIGGER events_refuse_update")
        rows.execute(
            "UPDATE events SET body = replace(body, 'layer 1', 'layer 9') WHERE kind = ?",
            (MessageAdded.__name__,),
        )
        rows.execute(trigger)
    rows.close()
    with tt.open_store(database) as store:
        recording = store.recording(recorder.run_id)
        for write in (
            lambda: tt.pack([recording], store, tmp_path / "run.tape"),
            lambda: tt.export_parquet(recording, store, tmp_path / "sealed"),
            lambda: tt.Recorder.resume(store, recording),
        ):
            with pytest.raises(tt.RecordingError, match=r"is altered: the seal at event"):
                write()
    assert not (tmp_path / "run.tape").exists()
