"""Tapes of released versions stay readable.

Next to each tape is a summary from the time of its recording: the last seal of each run, and a hash
of all its prompts and replies. See `record.py`.
"""

import json
from pathlib import Path

import pytest

import tokentape as tt
from tests.recordings.record import described
from tokentape.recorder.events import EVENT_CLASSES

FOLDER = Path(__file__).parent
TAPES = sorted(FOLDER.glob("*.tape"))


@pytest.mark.parametrize("tape", TAPES, ids=lambda tape: tape.stem)
def test_every_run_rebuilds_to_what_it_said(tape: Path) -> None:
    kept = json.loads(tape.with_suffix(".json").read_text(encoding="utf-8"))

    assert described(tape) == kept


@pytest.mark.parametrize("tape", TAPES, ids=lambda tape: tape.stem)
def test_every_run_is_as_it_was_recorded_and_can_be_imported(tape: Path) -> None:
    with tt.open_store(tape) as sealed, tt.open_store("sqlite://") as live:
        for each in tt.import_runs(tape, live):
            copy = tt.check(live, each.run_id)
            assert copy.ok
            assert copy == tt.check(sealed, each.run_id)


def test_there_is_a_recording_of_every_version_of_every_event() -> None:
    """One that is missing is made before the version is released: see `record.py`."""
    recorded = set()
    for tape in TAPES:
        with tt.open_store(tape) as store:
            for summary in store.summaries():
                records = store.recording(summary.run_id).records()
                recorded |= {(record.kind, record.version) for record in records}
    known = {(kind, n) for kind, cls in EVENT_CLASSES.items() for n in range(1, cls.version + 1)}

    assert recorded == known
