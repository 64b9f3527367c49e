"""`python -m benchmarks bulk`, at toy size."""

from pathlib import Path

import tokentape as tt
from benchmarks.replay.bulk import measure_bulk, record_tapes


def test_copies_of_a_recording_are_runs_of_their_own_and_every_way_verifies_them(
    tmp_path: Path, tiny_folder: Path
) -> None:
    lm = tt.load_model(tiny_folder)
    ticks: list[int] = []
    tapes = record_tapes(lm, tmp_path, distinct=2, count=4, tick=lambda: ticks.append(1))
    figures = measure_bulk(lm, tapes, distinct=2, one_by_one=4, jobs=2, tick=ticks.append)
    run_ids = set()
    for tape in tapes:
        with tt.open_store(tape) as store:
            run_ids |= {each.run_id for each in store.summaries()}

    assert len(run_ids) == len(tapes) == 4
    assert figures.verdicts == ("verified",)
    assert (figures.one_by_one_tapes, len(figures.one_by_one_s)) == (4, 4)
    assert sum(ticks) == 4 + 3 * len(tapes)
    assert figures.to_json()["bulk_ratio"] == figures.bulk_ratio > 0
