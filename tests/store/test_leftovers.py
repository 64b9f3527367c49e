"""What a killed writer leaves is neither taken for an export nor stays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tokentape as tt
from tests.store.crash import ROOT, record_script
from tokentape.recorder.atomic_write import AtomicFile
from tokentape.store import DatabaseStore

KILLS = int(os.environ.get("TOKENTAPE_KILLS", "200"))
LEFT = f".writing-{'0' * 32}"

# Kills a forked child after a random time, while it exports in one of the forms.
PROGRAM = """
import os, random, signal, sys, time
from pathlib import Path
import tokentape as tt
import tokentape.store.copies.spreadsheets

database, folder, count, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
chance, killed = random.Random(seed), 0

def write(form):
    with tt.open_store(database) as store:
        recording = store.recording(store.summaries()[0].run_id)
        if form == "pack":
            tt.pack([recording], store, folder / "run.tape")
        elif form == "parquet":
            tt.export_parquet(recording, store, folder / "sealed")
        elif form == "jsonl":
            tt.export_jsonl([recording], store, folder / "run.jsonl")
        else:
            tt.export_csv(store, recording.run_id, folder / "csv")

for number in range(count):
    form = ("pack", "parquet", "jsonl", "csv")[number % 4]
    child = os.fork()
    if child == 0:
        write(form)
        os._exit(0)
    time.sleep(chance.uniform(0, 0.12))
    os.kill(child, signal.SIGKILL)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
print(killed)
"""


def killed_writers(folder: Path, count: int, seed: int) -> int:
    """Return how many writers of a run were killed before their end."""
    with tt.open_store(folder / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        record_script(store, "a run", turns=4)
    (folder / "made").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder / "runs.db", folder / "made", str(count), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def check_next_writes(folder: Path) -> None:
    """Check that the next writers work, and that nothing temporary remains."""
    made = folder / "made"
    with tt.open_store(folder / "runs.db") as store:
        recording = store.recording(store.summaries()[0].run_id)
        tt.pack([recording], store, made / "run.tape")
        tt.export_parquet(recording, store, made / "sealed")
        tt.export_jsonl([recording], store, made / "run.jsonl")
        tt.export_csv(store, recording.run_id, made / "csv")
    left = [str(each) for each in made.rglob(".*")]
    assert left == []
    for name in ("run.tape", "sealed"):
        with tt.open_store(made / name) as sealed:
            assert tt.check(sealed, recording.run_id).ok
    with tt.open_store("sqlite://") as other:
        assert tt.import_runs(made / "run.jsonl", other)[0].added


def test_the_writers_after_killed_ones_work_and_leave_nothing(tmp_path: Path) -> None:
    assert killed_writers(tmp_path, 8, seed=1) > 0
    check_next_writes(tmp_path)


@pytest.mark.slow
def test_the_writers_after_many_killed_ones_work_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = killed_writers(tmp_path, KILLS, seed=2)
    with capsys.disabled():
        print(f"\n{killed} of {KILLS} writers of files killed")
    check_next_writes(tmp_path)


def test_a_csv_export_is_complete_only_with_its_manifest(
    store: DatabaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = record_script(store, "a run")
    paths = tt.export_csv(store, run_id, tmp_path)
    manifest = json.loads((tmp_path / "export.json").read_text())

    assert manifest["run_id"] == run_id
    assert {name: each["bytes"] for name, each in manifest["files"].items()} == {
        path.name: path.stat().st_size for path in paths
    }

    def fail(self: AtomicFile) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(AtomicFile, "commit", fail)
    with pytest.raises(tt.StoreError, match="disk full"):
        tt.export_csv(store, run_id, tmp_path)
    assert not (tmp_path / "export.json").exists()


def test_only_leftovers_of_ours_that_no_process_holds_are_removed(tmp_path: Path) -> None:
    stranger = tmp_path / ".writing-notes"
    stranger.write_text("mine")
    (tmp_path / LEFT).write_text("left by a killed process")
    with AtomicFile(tmp_path / "a") as held, AtomicFile(tmp_path / "b") as other:
        assert held.tmp_path.exists()
        assert not (tmp_path / LEFT).exists()
        held.commit()
        other.commit()

    assert {each.name for each in tmp_path.iterdir()} == {"a", "b", stranger.name}
