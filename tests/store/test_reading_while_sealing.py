"""Sealed runs can be read while a writer seals further turns."""

import hashlib
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tokentape as tt
from tests.store.made_runs import begin, say
from tokentape.store import DatabaseStore, ParquetStore

READER = """
import sys, tokentape as tt
with tt.open_store(sys.argv[1]) as store:
    print("ready", flush=True)
    while True:
        for summary in store.summaries():
            run_id = summary.run_id
            records = list(store.recording(run_id).records())
            assert records[-1].seal, records[-1]
            assert len(tt.tokens_df(store, run_id)) >= 2
            faults = store.verify_files(run_id)
            assert faults == [], faults
            assert [store.blob(each) for each in sys.argv[2:]]
            if records[-1].kind == "RunFinished":
                sys.exit()
"""


def test_who_reads_while_a_run_is_sealed_sees_it_whole(
    tmp_path: Path, store: DatabaseStore
) -> None:
    recorder = begin(tt.SealingLog(store, tmp_path))
    say(recorder, 1, tokens=2, payload=b"seen")
    command = [sys.executable, "-c", READER, str(tmp_path), hashlib.sha256(b"seen").hexdigest()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        for turn in range(2, 60):
            say(recorder, turn, tokens=2, payload=b"and %d" % turn)
        recorder.finish()
        complaints = reader.communicate(timeout=60)[1]

    assert complaints == ""


def test_a_row_that_is_replaced_while_it_is_checked_is_no_fault(
    tmp_path: Path, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = begin(tt.SealingLog(store, tmp_path))
    say(recorder, 1, tokens=2)
    turns = iter(range(2, 6))
    with ParquetStore(tmp_path) as opened:
        scan = opened._scan

        def sealing_meanwhile(table: str, *arguments: Any) -> pa.Table:
            turn = next(turns, None) if table == "runs" else None
            if turn is not None:
                say(recorder, turn, tokens=2)
            return scan(table, *arguments)

        monkeypatch.setattr(opened, "_scan", sealing_meanwhile)
        # The lock would keep this writer out; one that has it already is not kept out.
        monkeypatch.setattr(opened._files, "at_rest", lambda: nullcontext(False))

        assert opened.verify_files(recorder.run_id) == []
    assert next(turns, None) is None


def test_reading_goes_on_in_the_files_that_replace_those_that_were_read(
    tmp_path: Path, store: DatabaseStore
) -> None:
    recorder = begin(store)
    recording = store.recording(recorder.run_id)
    for turn in (1, 2, 3):
        say(recorder, turn, tokens=2)
        tt.export_parquet(recording, store, tmp_path)
    with tt.open_store(tmp_path) as opened:
        records = opened.recording(recorder.run_id).records()
        read = [next(records) for _ in range(3)]
        for row in tmp_path.glob("runs/*/*/*"):
            row.unlink()
        tt.export_parquet(recording, store, tmp_path)

        assert [*read, *records] == list(recording.records())
    assert sum(each.is_file() for each in tmp_path.rglob("*")) == 3
