"""Runs can be sealed while they are recorded, and sealing can be killed, repeated and doubled."""

import hashlib
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tokentape as tt
from tests.store.made_runs import begin, make_run, say
from tokentape.recorder import Record, atomic_write
from tokentape.recorder.events import CacheCleared
from tokentape.store import DatabaseStore
from tokentape.store.sealed import parquet, sealing
from tokentape.store.sealed.locks import locked


@pytest.fixture
def sealed(tmp_path: Path, store: DatabaseStore) -> tuple[Path, tt.Recording]:
    recording = store.recording(make_run(store))
    tt.export_parquet(recording, store, tmp_path / "sealed")
    return tmp_path / "sealed", recording


def names_in(folder: Path) -> list[str]:
    files = (each for each in folder.rglob("*") if each.is_file())
    return sorted(each.relative_to(folder).as_posix() for each in files)


def records_in(folder: Path, run_id: str) -> list[Record]:
    with tt.open_store(folder) as opened:
        return list(opened.recording(run_id).records())


def test_only_turns_with_a_seal_are_sealed_and_then_those_since(
    tmp_path: Path, store: DatabaseStore
) -> None:
    recorder = begin(store)
    recording = store.recording(recorder.run_id)
    with pytest.raises(tt.RecordingError, match="sealed yet"):
        tt.export_parquet(recording, store, tmp_path)
    say(recorder, 1, tokens=4, payload=b"seen")
    first = list(recording.records())
    recorder.record(CacheCleared(reason="asked", freed_bytes=0))
    tt.export_parquet(recording, store, tmp_path)

    assert records_in(tmp_path, recorder.run_id) == first
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    assert tt.export_parquet(recording, store, tmp_path) == []
    say(recorder, 2, tokens=4, payload=b"seen")
    added = tt.export_parquet(recording, store, tmp_path)
    with tt.open_store(tmp_path) as opened:
        assert list(opened.recording(recorder.run_id).records()) == list(recording.records())
        assert [each.status for each in opened.summaries()] == ["running"]
        assert opened.summaries() == store.summaries()
        assert opened.verify_files(recorder.run_id) == []
    assert [each.name for each in added] == ["part-00001.parquet"] * 2 + ["part-00000.parquet"]
    unchanged = [name for name in before if not name.startswith("runs/")]
    assert all((tmp_path / name).read_bytes() == before[name] for name in unchanged)
    assert len(pd.read_parquet(tmp_path / "tokens")) == 8
    recorder.finish()
    last = tt.export_parquet(recording, store, tmp_path)
    assert records_in(tmp_path, recorder.run_id) == list(recording.records())
    assert [each.parent.parent.parent.name for each in last] == ["events", "runs"]
    assert all((tmp_path / name).read_bytes() == before[name] for name in unchanged)
    assert tt.export_parquet(recording, store, tmp_path) == []


def test_a_sealing_log_seals_turn_by_turn(tmp_path: Path, store: DatabaseStore) -> None:
    recorder = begin(tt.SealingLog(store, tmp_path))
    recording = store.recording(recorder.run_id)
    for turn in (1, 2, 3):
        say(recorder, turn, tokens=2, payload=b"seen")

        assert records_in(tmp_path, recorder.run_id) == list(recording.records())
        assert len(list(tmp_path.glob("tokens/*/*/*.parquet"))) == turn
    recorder.finish()
    assert records_in(tmp_path, recorder.run_id) == list(recording.records())
    assert len(list(tmp_path.glob("tokens/*/*/*.parquet"))) == 3
    assert len(list(tmp_path.glob("events/*/*/*.parquet"))) == 4
    assert len(pd.read_parquet(tmp_path / "blobs")) == 1


def test_a_sealing_log_looks_up_no_payload_again(
    tmp_path: Path, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[object] = []
    sums_in = sealing._sums_in

    def read(target: Any, run: Any, *tables: str) -> set[str]:
        looked_up.extend(name for table in tables for name in run.parts(table))
        return sums_in(target, run, *tables)

    recorder = begin(tt.SealingLog(store, tmp_path))
    monkeypatch.setattr(sealing, "_sums_in", read)
    for turn in range(1, 9):
        say(recorder, turn, tokens=1, payload=b"payload %d" % (turn % 4))

    assert len(looked_up) == 1
    assert len(list(tmp_path.glob("blobs/*/*/*.parquet"))) == 4


def test_a_sealing_log_makes_up_for_what_others_did_to_its_folder(
    tmp_path: Path, store: DatabaseStore
) -> None:
    recorder = begin(tt.SealingLog(store, tmp_path))
    recording = store.recording(recorder.run_id)
    for turn in (1, 2, 3):
        say(recorder, turn, tokens=2, payload=b"seen")
        if turn == 1:
            next(tmp_path.glob("blobs/*/*/*.parquet")).unlink()
        elif turn == 2:
            tt.export_parquet(recording, store, tmp_path)
    recorder.finish()

    assert records_in(tmp_path, recorder.run_id) == list(recording.records())
    with tt.open_store(tmp_path) as opened:
        assert opened.blob(hashlib.sha256(b"seen").hexdigest()) == b"seen"


def test_bare_readers_see_no_row_twice_wherever_sealing_was_killed(
    tmp_path: Path, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = begin(store)
    recording = store.recording(recorder.run_id)
    commit = parquet.TableFile.commit
    placed: list[object] = []

    def die(self: parquet.TableFile) -> None:
        if len(placed) == step:
            raise KeyboardInterrupt
        placed.append(self)
        commit(self)

    for turn in range(1, 9):
        if turn < 8:
            say(recorder, turn, tokens=2)
        else:
            recorder.finish()
        step = turn % 3
        placed.clear()
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(parquet.TableFile, "commit", die)
            tt.export_parquet(recording, store, tmp_path)
        for table in ("events", "tokens"):
            if list(tmp_path.glob(f"{table}/*/*/*.parquet")):
                assert pd.read_parquet(tmp_path / table)["seq"].is_unique
    tt.export_parquet(recording, store, tmp_path)

    assert records_in(tmp_path, recorder.run_id) == list(recording.records())
    assert len(pd.read_parquet(tmp_path / "tokens")) == 14


def test_a_run_that_goes_on_otherwise_is_replaced(tmp_path: Path, store: DatabaseStore) -> None:
    first = store.recording(make_run(store, run_id="same"))
    for _ in range(2):
        tt.export_parquet(first, store, tmp_path)
    with tt.open_store("sqlite://") as other:
        assert isinstance(other, DatabaseStore)
        second = other.recording(make_run(other, turns=5, run_id="same"))
        tt.export_parquet(second, other, tmp_path)

        assert records_in(tmp_path, "same") == list(second.records())
    assert len(names_in(tmp_path)) == 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("as_error", [False, True])
def test_what_cannot_be_sealed_is_recorded_and_made_up_for(
    tmp_path: Path, store: DatabaseStore, as_error: bool
) -> None:
    folder = tmp_path / "sealed"
    folder.write_text("a file is in the way")
    log = tt.SealingLog(store, folder)
    recorder = begin(log)
    if as_error:
        say(recorder, 1, tokens=2)
    else:
        with pytest.warns(RuntimeWarning, match="recorded, but was not sealed: cannot write to"):
            say(recorder, 1, tokens=2)

    assert "was not sealed" in log.fault
    folder.unlink()
    say(recorder, 2, tokens=2)
    assert log.fault == ""
    recording = store.recording(recorder.run_id)
    assert len(recording.turns()) == 2
    assert records_in(folder, recorder.run_id) == list(recording.records())


def harm(folder: Path) -> None:
    (path,) = folder.glob("events/*/*/*.parquet")
    path.write_bytes(bytes(reversed(path.read_bytes())))


def test_sealing_again_changes_nothing_and_leaves_nothing_beside(
    sealed: tuple[Path, tt.Recording], store: DatabaseStore
) -> None:
    folder, recording = sealed
    before = {name: (folder / name).read_bytes() for name in names_in(folder)}
    (leftover,) = folder.glob("tokens/*/*/")
    (leftover / "part-00007.parquet").write_text("left by a process that was killed")
    (leftover / ".part-00000.parquet.0.tmp").write_text("and that, too")
    assert tt.export_parquet(recording, store, folder) == []

    assert {name: (folder / name).read_bytes() for name in names_in(folder)} == before
    harm(folder)
    assert len(tt.export_parquet(recording, store, folder)) == 4
    assert {name: (folder / name).read_bytes() for name in names_in(folder)} == before


def test_an_export_that_breaks_leaves_what_was_there(
    sealed: tuple[Path, tt.Recording], store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, recording = sealed
    harm(folder)
    before = {name: (folder / name).read_bytes() for name in names_in(folder)}
    finished: list[object] = []
    finish = parquet.TableFile.finish

    def break_third(self: parquet.TableFile, metadata: dict[str, str]) -> parquet.SealedFile:
        finished.append(self)
        if len(finished) == 3:
            raise OSError("disk full")
        return finish(self, metadata)

    monkeypatch.setattr(parquet.TableFile, "finish", break_third)
    with pytest.raises(tt.StoreError, match="disk full"):
        tt.export_parquet(recording, store, folder)

    assert {name: (folder / name).read_bytes() for name in names_in(folder)} == before


@pytest.mark.parametrize("step", range(5))
def test_an_export_killed_while_files_are_put_in_place_shows_no_half_run(
    sealed: tuple[Path, tt.Recording],
    store: DatabaseStore,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    folder, recording = sealed
    harm(folder)
    placed: list[object] = []
    commit = parquet.TableFile.commit

    def die(self: parquet.TableFile) -> None:
        if len(placed) == step:
            raise KeyboardInterrupt
        placed.append(self)
        commit(self)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(parquet.TableFile, "commit", die)
        tt.export_parquet(recording, store, folder)
        raise KeyboardInterrupt
    with tt.open_store(folder) as opened:
        assert [each.run_id for each in opened.summaries()] == [recording.run_id] * (step == 4)
    tt.export_parquet(recording, store, folder)
    assert records_in(folder, recording.run_id) == list(recording.records())
    with tt.open_store(folder) as opened:
        assert opened.verify_files(recording.run_id) == []


def test_a_part_that_was_cut_off_is_not_read_and_is_named(
    tmp_path: Path, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = begin(store)
    recording = store.recording(recorder.run_id)
    say(recorder, 1, tokens=2)
    tt.export_parquet(recording, store, tmp_path)
    first = list(recording.records())
    say(recorder, 2, tokens=2)

    def die(*anything: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(atomic_write.os, "fsync", die)
        tt.export_parquet(recording, store, tmp_path)
    assert records_in(tmp_path, recorder.run_id) == first
    tt.export_parquet(recording, store, tmp_path)
    (stray,) = tmp_path.glob("tokens/*/*/part-00001.parquet")
    (stray.parent / "part-00002.parquet").write_bytes(stray.read_bytes())
    assert records_in(tmp_path, recorder.run_id) == list(recording.records())
    with tt.open_store(tmp_path) as opened:
        (fault,) = opened.verify_files(recorder.run_id)
        with locked(tmp_path):
            assert opened.verify_files(recorder.run_id) == []
    assert "part-00002.parquet is not listed" in fault


PROGRAM = """
import sys, tokentape as tt
with tt.open_store(sys.argv[1]) as store:
    for _ in range(int(sys.argv[3])):
        tt.export_parquet(store.recording(store.summaries()[0].run_id), store, sys.argv[2])
        print("done", flush=True)
"""


def test_two_exports_at_once_make_one_sealed_run(tmp_path: Path) -> None:
    database, folder = tmp_path / "runs.db", tmp_path / "sealed"
    with tt.open_store(database) as store:
        recording = store.recording(make_run(store, turns=5))
        command = [sys.executable, "-c", PROGRAM, str(database), str(folder), "15"]
        both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        complaints = [each.communicate()[1] for each in both]

        assert complaints == ["", ""]
        assert records_in(folder, recording.run_id) == list(recording.records())
        assert len(names_in(folder)) == 4


def test_a_killed_export_is_made_up_for_by_the_next(tmp_path: Path) -> None:
    database, folder = tmp_path / "runs.db", tmp_path / "sealed"
    with tt.open_store(database) as store:
        recording = store.recording(make_run(store, turns=40, tokens=100))
        command = [sys.executable, "-c", PROGRAM, str(database), str(folder), "1000"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if (folder / "runs").exists():
            with tt.open_store(folder) as opened:
                for summary in opened.summaries():
                    copy = opened.recording(summary.run_id)
                    assert list(copy.records()) == list(recording.records())
        tt.export_parquet(recording, store, folder)
    with tt.open_store(folder) as opened:
        assert opened.verify_files(recording.run_id) == []
    assert records_in(folder, recording.run_id)[-1].kind == "RunFinished"
