"""A run is followed without reading earlier rows again."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import event

import tokentape as tt
from tests.store.made_families import fork
from tests.store.made_runs import begin, make_run, say
from tokentape.recorder import Record
from tokentape.store import DatabaseStore, SealingLog
from tokentape.store.live.tables import SEQ_BITS
from tokentape.store.run_follower import NewToken, RunFollower
from tokentape.store.source import Selection, Source


class CountingSource:
    """A store that counts the rows that it returns."""

    def __init__(self, source: Source) -> None:
        self.rows = 0
        self._source = source

    def events_table(self, selection: Selection) -> pa.Table:
        return self._counted(self._source.events_table(selection))

    def tokens_table(self, selection: Selection) -> pa.Table:
        return self._counted(self._source.tokens_table(selection))

    def _counted(self, table: pa.Table) -> pa.Table:
        self.rows += len(table)
        return table

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


@pytest.mark.parametrize("place", ["live", "sealed"])
def test_a_poll_reads_only_rows_that_are_new(
    live_store: DatabaseStore, tmp_path: Path, place: str
) -> None:
    recorder = begin(SealingLog(live_store, tmp_path / "sealed"))
    for turn in range(1, 20):
        say(recorder, turn, tokens=10)
    with tt.open_store(tmp_path / "sealed") as sealed:
        source = CountingSource(live_store if place == "live" else sealed)
        follower = RunFollower(source, source.recording(recorder.run_id))
        known = follower.poll()
        assert source.rows == 0
        assert follower.poll() == []
        assert source.rows == 0
        for turn in range(20, 23):
            say(recorder, turn, tokens=10)
            known += follower.poll()
        recorder.finish()
        known += follower.poll()

        assert follower.ended
        assert source.rows == 3 * (10 + 3) + 1
        tokens = [each.seq for each in known if isinstance(each, NewToken)]
        events = [each.seq for each in known if not isinstance(each, NewToken)]
        assert len(tokens) == 30
        assert events == [each.seq for each in events_of(live_store, recorder.run_id)]


def events_of(store: DatabaseStore, run_id: str) -> list[Record]:
    return [each for each in store.recording(run_id).records() if isinstance(each.body, str)]


def test_a_live_store_starts_at_the_next_row(live_store: DatabaseStore) -> None:
    recorder = begin(live_store)
    say(recorder, 1, tokens=5)
    follower = RunFollower(live_store, live_store.recording(recorder.run_id))
    follower.poll()
    last = len(list(live_store.recording(recorder.run_id).records())) - 1
    keys: list[int] = []

    @event.listens_for(live_store._engine, "before_cursor_execute")
    def note(conn: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        values = parameters.values() if isinstance(parameters, dict) else parameters
        if "event_key" in statement:
            keys.append(min(each for each in values if each >> SEQ_BITS))

    follower.poll()

    assert [key & ((1 << SEQ_BITS) - 1) for key in keys] == [last + 1] * 2


def test_a_sealed_part_that_was_read_before_is_not_opened_again(tmp_path: Path) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        recorder = begin(SealingLog(store, tmp_path / "sealed"))
        say(recorder, 1, tokens=50)
        known = list(store.recording(recorder.run_id).records())[-1].seq
        say(recorder, 2, tokens=50)
    for part in (tmp_path / "sealed").glob("*/*/*/part-00000.parquet"):
        if "runs" not in part.parts:
            content = bytearray(part.read_bytes())
            content[4:40] = bytes(36)
            part.write_bytes(content)
    selection = Selection(run_ids=(recorder.run_id,))
    later = Selection(run_ids=(recorder.run_id,), after_seq=known)
    with tt.open_store(tmp_path / "sealed") as sealed:
        with pytest.raises(tt.StoreError):
            sealed.tokens_table(selection)
        with pytest.raises(tt.StoreError):
            sealed.events_table(selection)
        assert len(sealed.tokens_table(later)) == 50
        assert len(sealed.events_table(later)) == 3


def test_a_fork_is_followed_from_its_own_events(live_store: DatabaseStore) -> None:
    parent = make_run(live_store, turns=3, tokens=20)
    run_id = fork(live_store, parent, at_turn=2)
    follower = RunFollower(live_store, live_store.recording(run_id))
    first = follower.poll()

    assert follower.poll() == []
    assert [each.seq for each in first if isinstance(each, tt.Envelope)][-1] == first[-1].seq
    assert follower.ended
