"""Folders, tapes, lines and tables in an object store are those of this machine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tokentape as tt
from tests.integrations.objects.conftest import Requests
from tests.store.made_runs import begin, make_run, say
from tests.store.test_contract import keep_beside
from tokentape.commands.bulk import _tapes_in
from tokentape.store import DatabaseStore, ParquetStore
from tokentape.store.objects import range_file
from tokentape.store.sealed import object_files

Cli = Callable[..., tuple[int, str, str]]


def assert_equal_stores(found: ParquetStore, expected: Any) -> None:
    run_ids = [each.run_id for each in expected.summaries()]

    assert found.summaries() == expected.summaries()
    assert found.labels_by_run() == expected.labels_by_run()
    for run_id in run_ids:
        assert list(found.recording(run_id).events()) == list(expected.recording(run_id).events())
        assert found.verdicts(run_id) == expected.verdicts(run_id)
        assert found.floors(run_id) == expected.floors(run_id)
        assert tt.check(found, run_id).faults == ()
    for frame in (tt.runs_df, tt.events_df, tt.tokens_df, tt.top_logprobs_df, tt.verdicts_df):
        pd.testing.assert_frame_equal(frame(found), frame(expected))


@pytest.mark.parametrize("in_ranges", [False, True], ids=["whole", "in ranges"])
def test_a_folder_and_a_tape_give_what_was_recorded(
    store: DatabaseStore,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_ranges: bool,
) -> None:
    runs = [make_run(store, turns=2, tokens=200) for _ in range(2)]
    keep_beside(store, runs[1])
    recordings = [store.recording(each) for each in runs]
    for each in recordings:
        tt.export_parquet(each, store, tmp_path / "sealed")
        written = tt.export_parquet(each, store, f"{bucket}/sealed")
    tape = tt.pack(recordings, store, f"{bucket}/all.tape")
    if in_ranges:
        for module in (range_file, object_files):
            monkeypatch.setattr(module, "WHOLE_BYTES", 5000)
        monkeypatch.setattr(range_file, "_BLOCK_BYTES", 2048)

    assert all(str(each).startswith(f"{bucket}/sealed/") for each in written)
    assert tape == f"{bucket}/all.tape"
    with (
        tt.open_store(tmp_path / "sealed") as local,
        tt.open_store(f"{bucket}/sealed") as folder,
        tt.open_store(str(tape)) as packed,
    ):
        assert_equal_stores(folder, local)
        assert_equal_stores(packed, local)


def test_a_run_that_grows_adds_parts(store: DatabaseStore, bucket: str, s3: Any) -> None:
    recorder = begin(store)
    say(recorder, 1, tokens=4)
    recording = store.recording(recorder.run_id)
    first = tt.export_parquet(recording, store, f"{bucket}/runs")
    again = tt.export_parquet(recording, store, f"{bucket}/runs")
    say(recorder, 2, tokens=4, payload=b"seen")
    second = tt.export_parquet(recording, store, f"{bucket}/runs")

    assert [str(each).rpartition("/")[2] for each in first] == ["part-00000.parquet"] * 3
    assert again == []
    assert sorted(each.partition("/runs/")[2].partition("/")[0] for each in map(str, second)) == [
        "blobs",
        "events",
        "runs",
        "tokens",
    ]
    with tt.open_store(f"{bucket}/runs") as opened:
        assert tt.check(opened, recorder.run_id).sealed_turns == 2
        assert len(tt.tokens_df(opened)) == 8


def test_a_damaged_part_is_replaced_by_the_next_export(
    store: DatabaseStore, bucket: str, s3: Any
) -> None:
    run_id = make_run(store)
    files = tt.export_parquet(store.recording(run_id), store, f"{bucket}/runs")
    (tokens,) = [str(each) for each in files if "/tokens/" in str(each)]
    content = bytearray(s3.cat_file(tokens))
    content[len(content) // 2] ^= 1
    s3.pipe_file(tokens, bytes(content))
    with tt.open_store(f"{bucket}/runs") as opened:
        assert not tt.check(opened, run_id).ok

    tt.export_parquet(store.recording(run_id), store, f"{bucket}/runs")

    with tt.open_store(f"{bucket}/runs") as opened:
        assert tt.check(opened, run_id).ok


def test_a_run_is_sealed_into_an_object_store_while_it_is_recorded(
    store: DatabaseStore, bucket: str, requests: Requests
) -> None:
    log = tt.SealingLog(store, f"{bucket}/runs")
    recorder = begin(log)
    for turn in (1, 2, 3):
        say(recorder, turn, tokens=4)
        with tt.open_store(f"{bucket}/runs") as opened:
            assert len(opened.recording(recorder.run_id).turns()) == turn

    assert log.fault == ""
    with tt.open_store(f"{bucket}/runs") as opened:
        assert tt.check(opened, recorder.run_id).sealed_turns == 3


def test_what_is_in_an_object_store_is_imported(store: DatabaseStore, bucket: str) -> None:
    run_id = make_run(store)
    keep_beside(store, run_id)
    recording = store.recording(run_id)
    tt.export_parquet(recording, store, f"{bucket}/runs")
    tt.pack([recording], store, f"{bucket}/x.tape")
    assert tt.export_jsonl([recording], store, f"{bucket}/x.jsonl") == f"{bucket}/x.jsonl"
    tt.export_jsonl([recording], store, f"{bucket}/x.jsonl")

    for name in ("runs", "x.tape", "x.jsonl"):
        with tt.open_store("sqlite://") as imported:
            assert isinstance(imported, DatabaseStore)
            (done,) = tt.import_runs(f"{bucket}/{name}", imported)
            assert done.added
            assert imported.verdicts(run_id) == store.verdicts(run_id)
            assert tt.check(imported, run_id).ok


def test_tables_are_written_with_their_manifest_last(
    store: DatabaseStore, bucket: str, s3: Any, tmp_path: Path, requests: Requests
) -> None:
    one, other = make_run(store), make_run(store)
    requests.clear()
    written = tt.export_csv(store, one, f"{bucket}/csv")
    local = tt.export_csv(store, one, tmp_path)

    assert requests.made[-1][0] == "put_object"
    assert requests.made[-1][1].endswith("csv/export.json")
    for mine, theirs in zip(written, local, strict=True):
        assert s3.cat_file(str(mine)) == Path(theirs).read_bytes()
    with pytest.raises(tt.StoreError, match="holds the export of run"):
        tt.export_csv(store, other, f"{bucket}/csv")
    s3.pipe_file(f"{bucket}/mine/turns.csv", b"mine")
    with pytest.raises(tt.StoreError, match=r"holds turns.csv of another export"):
        tt.export_csv(store, other, f"{bucket}/mine")
    assert s3.cat_file(f"{bucket}/mine/turns.csv") == b"mine"


def test_nothing_else_is_replaced(store: DatabaseStore, bucket: str, s3: Any) -> None:
    one, other = (store.recording(make_run(store)) for _ in range(2))
    tt.pack([one, other], store, f"{bucket}/x.tape")
    tt.export_jsonl([one], store, f"{bucket}/x.jsonl")
    s3.pipe_file(f"{bucket}/letter", b"Dear Ada")

    for write, name, said in (
        (tt.pack, "x.tape", "would be lost"),
        (tt.pack, "x.jsonl", "is not a readable tape"),
        (tt.pack, "letter", "is not a readable tape"),
        (tt.export_jsonl, "x.tape", "is not an export of runs"),
        (tt.export_jsonl, "letter", "is not an export of runs"),
    ):
        before = s3.cat_file(f"{bucket}/{name}")
        with pytest.raises(tt.StoreError, match=said):
            write([one], store, f"{bucket}/{name}")
        assert s3.cat_file(f"{bucket}/{name}") == before
    with pytest.raises(tt.StoreError, match="it is a file, not a folder"):
        tt.export_parquet(one, store, f"{bucket}/letter")
    with pytest.raises(tt.StoreError, match="it is a folder"):
        tt.pack([one], store, bucket)


def test_a_list_of_runs_reads_no_tokens(
    store: DatabaseStore,
    bucket: str,
    s3: Any,
    requests: Requests,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(range_file, "WHOLE_BYTES", 4096)
    monkeypatch.setattr(range_file, "_BLOCK_BYTES", 1024)
    recordings = [store.recording(make_run(store, turns=2, tokens=2000)) for _ in range(2)]
    for each in recordings:
        tt.export_parquet(each, store, f"{bucket}/runs")
    tt.pack(recordings, store, f"{bucket}/x.tape")
    tape_bytes = s3.size(f"{bucket}/x.tape")
    requests.clear()
    with tt.open_store(f"{bucket}/runs") as opened:
        assert len(opened.summaries()) == 2
        assert opened.labels_by_run() == {}

    tables = {key.partition("runs/")[2].partition("/")[0] for _, key in requests.made}
    assert tables <= {"", "runs"}
    # The two objects of `runs`, twice.
    assert requests.count("get_object") == 4
    requests.clear()
    with tt.open_store(f"{bucket}/x.tape") as opened:
        assert len(opened.summaries()) == 2
    assert requests.bytes_read < tape_bytes / 2


def test_commands_take_urls(cli: Cli, bucket: str, tmp_path: Path) -> None:
    folder, tape, lines = f"{bucket}/runs", f"{bucket}/x.tape", f"{bucket}/x.jsonl"
    path = str(tmp_path / "runs.db")
    with tt.open_store(path) as opened:
        assert isinstance(opened, DatabaseStore)
        run_id = make_run(opened)

    def run(*args: str) -> str:
        code, printed, said = cli(*args)
        assert code == 0, said
        return printed

    exported = json.loads(run("export", run_id, "--store", path, "-o", folder, "--json"))
    assert exported[-1].startswith(f"{folder}/runs/")
    packed = json.loads(run("pack", run_id, "--store", path, "-o", tape, "--json"))
    assert packed["tape"] == tape
    assert packed["bytes"] > 1000
    assert run("export", run_id, "--store", folder, "--to", "jsonl", "-o", lines).strip() == lines
    for where in (folder, tape):
        (row,) = json.loads(run("list", "--store", where, "--json"))
        assert row["run_id"] == run_id
        assert json.loads(run("check", where, "--json"))["ok"]
        assert run_id in run("show", f"{where}#{run_id[:13]}")
    for number, where in enumerate((folder, tape, lines)):
        run("import", where, "--store", str(tmp_path / f"{number}.db"))
    assert _tapes_in(bucket) == []
    tt.pack(
        [tt.open_store(folder).recording(run_id)], tt.open_store(folder), f"{bucket}/t/a/y.tape"
    )
    assert _tapes_in(f"{bucket}/t/") == [f"{bucket}/t/a/y.tape"]
    for other in ("none://bucket/x.tape", "sqlite:///x.tape"):
        code, _, said = cli("pack", folder, "-o", other)
        assert (code, "is not the URL of a file or folder" in said) == (2, True)
    code, _, said = cli("tag", run_id, "good", "--store", folder)
    assert (code, f"{folder} is sealed: it can only be read" in said) == (2, True)
