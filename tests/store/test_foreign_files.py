"""What is no store is named as what it is, wherever a store or a copy is expected."""

import gzip
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt
from tests.recorder.test_foreign_files import POINTER
from tests.store.made_runs import make_run
from tokentape.replay.checking.noise_floor import DEFAULT_FLOOR
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]
FOREIGN = {
    "pointer": (POINTER, "git lfs pull"),
    "page": (b"<!DOCTYPE html><html>", "web page"),
    "gzip": (gzip.compress(b"PK\x03\x04"), "gunzip"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["run.tape", "runs.db", "run.jsonl"])
def test_a_foreign_file_is_named_by_each_command_that_reads_it(
    kind: str, name: str, tmp_path: Path, cli: Cli
) -> None:
    content, what = FOREIGN[kind]
    path, other = tmp_path / name, tmp_path / "other.db"
    path.write_bytes(content)
    for command in (["list", "--store", path], ["import", path, "--store", other]):
        code, out, err = cli(*map(str, command))

        assert (code, out, err.count("\n")) == (2, "", 1)
        assert what in err
        assert name in err
    assert path.read_bytes() == content
    assert not other.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
def test_a_pipe_is_neither_waited_for_nor_replaced(
    store: DatabaseStore, tmp_path: Path, cli: Cli
) -> None:
    pipe, db = tmp_path / "pipe", tmp_path / "runs.db"
    os.mkfifo(pipe)
    recording = store.recording(make_run(store))
    for write in (tt.pack, tt.export_jsonl):
        with pytest.raises(tt.StoreError, match="pipe, not a file"):
            write([recording], store, pipe)
    for command in (["import", pipe, "--store", db], ["list", "--store", pipe]):
        code, out, err = cli(*map(str, command))

        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "pipe, not a file" in err
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert not db.exists()


def test_no_export_replaces_a_pointer(store: DatabaseStore, tmp_path: Path) -> None:
    run_id = make_run(store)
    recording = store.recording(run_id)
    path = tmp_path / "a.tape"
    path.write_bytes(POINTER)
    with pytest.raises(tt.StoreError, match="git lfs pull"):
        tt.pack([recording], store, path)
    with pytest.raises(tt.StoreError, match="not an export"):
        tt.export_jsonl([recording], store, path)
    assert path.read_bytes() == POINTER


@pytest.mark.parametrize("table", ["runs", "events", "tokens"])
def test_a_sealed_folder_whose_files_are_pointers_is_neither_read_nor_replaced(
    table: str, store: DatabaseStore, tmp_path: Path
) -> None:
    recording = store.recording(make_run(store))
    folder = tmp_path / "sealed"
    tt.export_parquet(recording, store, folder)
    (file,) = (folder / table).rglob("*.parquet")
    file.write_bytes(POINTER)
    with tt.open_store(folder) as sealed:
        with pytest.raises(tt.StoreError, match=r"git lfs pull"):
            list(sealed.recording(recording.run_id).records())
        with pytest.raises(tt.StoreError, match=r"git lfs pull"):
            tt.tokens_df(sealed) if table == "tokens" else tt.events_df(sealed)
    with pytest.raises(tt.StoreError, match=r"git lfs pull"):
        tt.export_parquet(recording, store, folder)

    assert file.read_bytes() == POINTER


def test_a_file_of_the_project_in_the_place_of_another_is_named(
    store: DatabaseStore, tmp_path: Path, cli: Cli
) -> None:
    recording = store.recording(make_run(store))
    tape = tt.pack([recording], store, tmp_path / "run.tape")
    lines = tt.export_jsonl([recording], store, tmp_path / "run.jsonl")
    parquet = tt.export_parquet(recording, store, tmp_path / "sealed")[0]
    shutil.copy(parquet, tmp_path / "one.parquet")
    with tt.open_store(tmp_path / "runs.db"):
        pass
    for where, what in (
        (f"sqlite:///{tape}", "name it by its path"),
        (lines, "tokentape import"),
        (tmp_path / "one.parquet", "name the folder"),
    ):
        with pytest.raises(tt.StoreError, match=what):
            tt.open_store(where)
    code, _, err = cli("import", str(tmp_path / "runs.db"), "--store", "sqlite://")

    assert code == 2
    assert "a SQLite database" in err


def test_a_floor_that_is_a_pointer_is_named_and_a_byte_order_mark_is_accepted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "floor.json"
    tt.write_floor(DEFAULT_FLOOR, path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert tt.read_floor(path) == DEFAULT_FLOOR

    path.write_bytes(POINTER)
    with pytest.raises(tt.TokentapeError, match="git lfs pull"):
        tt.read_floor(path)
