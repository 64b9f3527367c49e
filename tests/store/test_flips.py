"""Flipped bits of a SQLite file are found, or change nothing that is read."""

from pathlib import Path

import tokentape as tt
from tests.store import flips_sqlite


def test_no_flipped_bit_of_a_file_is_silent_or_unexpected(tmp_path: Path) -> None:
    flips = flips_sqlite.flip_bits(tmp_path, 15, seed=4)

    assert (flips.silent, flips.unexpected, flips.hung) == ([], [], [])
    assert flips.detected.total() + flips.harmless == 15
    assert flips.detected.total() > 3


def test_a_field_that_a_body_lacks_is_damage_in_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    flips_sqlite.make_store(path)
    run_ids = flips_sqlite.run_ids_of(path)
    content = path.read_bytes()
    for sound, flipped in ((b'"tensors":[{', b'"Tensors":[{'), (b'"turn":1,"un', b'"Turn":1,"un')):
        at = content.rfind(sound)
        path.write_bytes(content[:at] + flipped + content[at + len(sound) :])
        assert flips_sqlite.found_by_check(path, run_ids) == "check: seals"
        said = dict(flips_sqlite.reads(path, run_ids))
        refused = [name for name, each in said.items() if isinstance(each, tt.RecordingError)]
        assert {"tools_df", "turns_df"} & set(refused)
