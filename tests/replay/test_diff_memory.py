"""A comparison of long runs holds the prompts of few turns in memory."""

import gc
from pathlib import Path

import pytest

import tokentape as tt
from tests.store.large_runs import import_conversation
from tokentape.recorder.projections import Turn
from tokentape.replay.run_diff import diff as diff_module
from tokentape.replay.run_diff.diff_types import TurnDiff


def turns_in_memory() -> int:
    """Return how many turns exist, also those of other tests."""
    return sum(type(each) is Turn for each in gc.get_objects())


def test_turns_are_compared_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare, held = diff_module._compare_turns, list[int]()

    def counted(*arguments: object, **options: object) -> TurnDiff:
        held.append(turns_in_memory())
        return compare(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(diff_module, "_compare_turns", counted)
    with tt.open_store(tmp_path / "runs.db") as store:
        ids = [import_conversation(store, 30, 2, salt=salt) for salt in (0, 1)]
        gc.collect()
        before = turns_in_memory()
        found = tt.diff(*(store.recording(run_id) for run_id in ids))

    assert [turn.turn for turn in found.turns if not turn.same] == [30]
    assert len(held) == 30
    assert max(held) - before <= 8
