"""A damaged tape or sealed folder changes nothing that is read, or every reader says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tokentape as tt
from tests.store.crash import ROOT
from tests.store.flips_sealed import (
    Answers,
    damage_sealed,
    exchange_files,
    flip,
    make_sound,
    swap_words,
    truncate,
    zero,
)

FLIPS = int(os.environ.get("TOKENTAPE_FLIPS", "500"))
DAMAGES = {"flip": flip, "truncate": truncate, "zero": zero, "swap_words": swap_words}

# Flips bits in the footers of all parts of two tables, and reads selected rows of each.
FOOTERS = """
import sys
from pathlib import Path
import tokentape as tt

folder, counts = Path(sys.argv[1]), {"read": 0, "refused": 0}
for path in sorted(folder.glob("events/*/*/*")) + sorted(folder.glob("tokens/*/*/*")):
    sound = path.read_bytes()
    footer = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    for at in range(footer, len(sound) - 8, 23):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1:])
        try:
            with tt.open_store(folder) as store:
                for summary in store.summaries():
                    recording = store.recording(summary.run_id)
                    recording.newest_turn()
                    recording.sampled_ids(3, None)
                    tt.tokens_df(store, summary.run_id, turns=2)
                    tt.turns_df(store, summary.run_id, turns=2)
            counts["read"] += 1
        except tt.TokentapeError:
            counts["refused"] += 1
    path.write_bytes(sound)
print(counts["read"], counts["refused"])
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    tape, folder = make_sound(tmp_path_factory.mktemp("sound"))
    return {"tape": tape, "folder": folder}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def truth() -> dict[str, Answers]:
    """What every reader says of the sound files, once one of the quick tests has read them."""
    return {"tape": {}, "folder": {}}


@pytest.mark.parametrize("form", ["tape", "folder"])
def test_a_few_flips_are_neither_silent_nor_unexpected(
    sound: dict[str, Path], truth: dict[str, Answers], form: str, scratch: Path
) -> None:
    figures = damage_sealed(sound[form], scratch, 8, seed=3, quick=True, truth=truth[form])

    assert figures.faults == []
    assert figures.counts["found"] >= 4


@pytest.mark.parametrize("damage", ["truncate", "zero", "swap_words"])
def test_a_few_other_damages_are_neither_silent_nor_unexpected(
    sound: dict[str, Path], truth: dict[str, Answers], damage: str, scratch: Path
) -> None:
    change, known = DAMAGES[damage], truth["folder"]
    figures = damage_sealed(
        sound["folder"], scratch, 3, seed=4, damage=change, quick=True, truth=known
    )

    assert figures.faults == []


def test_a_damaged_footer_does_not_end_the_process(sound: dict[str, Path], tmp_path: Path) -> None:
    """pyarrow ends it where it looks at statistics or at the metadata of a column."""
    with tt.open_store(sound["tape"]) as store:
        recording = store.recording(store.summaries()[0].run_id)
        tt.export_parquet(recording, store, tmp_path / "sealed")
    done = subprocess.run(
        [sys.executable, "-c", FOOTERS, str(tmp_path / "sealed")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    read, refused = map(int, done.stdout.split())
    assert refused > 15
    assert read > 15


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("form", ["tape", "folder"])
def test_hundreds_of_damages_are_neither_silent_nor_unexpected(
    sound: dict[str, Path],
    form: str,
    damage: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    count = FLIPS if damage == "flip" else FLIPS // 5
    figures = damage_sealed(sound[form], tmp_path, count, seed=5, damage=DAMAGES[damage])
    with capsys.disabled():
        print(f"\n{damage} in a sealed {form}: {figures}")

    assert figures.faults == []


@pytest.mark.slow
def test_files_in_the_place_of_others_are_neither_silent_nor_unexpected(
    sound: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = exchange_files(sound["folder"], tmp_path, FLIPS // 5, seed=6)
    with capsys.disabled():
        print(f"\nfiles exchanged in a sealed folder: {figures}")

    assert figures.faults == []
