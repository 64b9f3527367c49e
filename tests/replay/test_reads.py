"""Replays read and decode each event of a run once."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.store.made_families import record_family
from tokentape.recorder import Envelope, Record, recording
from tokentape.replay import load_run
from tokentape.store import DatabaseStore


class CountingReads:
    """Counts the records that recordings of a store give, and the events decoded of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: Counter[tuple[str, int]] = Counter()
        self.decoded: Counter[tuple[str, int]] = Counter()
        decode = recording.decode

        def counting(run_id: str, record: Record) -> Envelope:
            self.decoded[run_id, record.seq] += 1
            return decode(run_id, record)

        monkeypatch.setattr(recording, "decode", counting)

    def of(self, found: tt.Recording) -> tt.Recording:
        def read() -> Iterator[Record]:
            for record in found.records():
                self.read[found.run_id, record.seq] += 1
                yield record

        find = found.find
        return replace(
            found, read=read, find=None if find is None else lambda run_id: self.of(find(run_id))
        )

    def assert_all_once(self, *run_ids: str, forks: Sequence[str] = ()) -> None:
        """Check it, but for the event that says where a fork left its parent: a lookup by key."""
        for run_id in forks:
            self.decoded[run_id, 1] = 1
        assert self.read == self.decoded
        assert set(self.read.values()) == {1}
        assert {run_id for run_id, _ in self.read} == set(run_ids)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> CountingReads:
    return CountingReads(monkeypatch)


@pytest.mark.parametrize("replay", [tt.verify, tt.regenerate])
def test_a_replay_reads_each_event_once(
    replay: Callable[..., tt.Report],
    lm: tt.LoadedModel,
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
    reads: CountingReads,
) -> None:
    recorded = reads.of(record(lm, store, tokens=3))
    reads.decoded.clear()
    report = replay(recorded, lm, tools=tt.default_tools(lm))

    assert report.passes
    reads.assert_all_once(recorded.run_id)


def test_a_replay_that_fails_reads_each_event_once(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
    altered: Callable[..., tt.LoadedModel],
    reads: CountingReads,
) -> None:
    def spoil(model: Any) -> None:
        model.lm_head.weight.mul_(1.5)

    recorded = reads.of(record(lm, store, tokens=3))
    reads.decoded.clear()

    assert not tt.verify(recorded, altered(lm, spoil), ignore=["weights"]).passes
    reads.assert_all_once(recorded.run_id)


def test_rebuild_calibrate_and_diff_read_each_event_once(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
    reads: CountingReads,
) -> None:
    recorded = record(lm, store, tokens=3)
    for replay in (tt.rebuild, lambda run: tt.calibrate(run, lm)):
        reads.read.clear()
        reads.decoded.clear()
        replay(reads.of(recorded))
        reads.assert_all_once(recorded.run_id)

    other = record(lm, store, tokens=3)
    reads.read.clear()
    reads.decoded.clear()
    assert tt.diff(reads.of(recorded), reads.of(other)).same
    reads.assert_all_once(recorded.run_id, other.run_id)


def test_a_fork_reads_its_events_and_those_of_its_parents_once(
    store: DatabaseStore, tiny_folder: Path, reads: CountingReads
) -> None:
    lm = tt.load_model(tiny_folder)
    family = record_family(lm, store)
    reads.decoded.clear()
    report = tt.verify(reads.of(store.recording(family[-1])), lm)

    assert report.passes
    # Reading a parent stops at the first event that its fork does not share.
    reads.assert_all_once(*family, forks=family[1:])


def test_a_loaded_run_is_not_read_again(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
    reads: CountingReads,
) -> None:
    recorded = reads.of(record(lm, store, tokens=3))
    reads.decoded.clear()
    run = load_run(recorded)

    assert load_run(run) is run
    assert tt.verify(run, lm).passes
    assert tt.regenerate(run, lm, turns=[1]).passes
    assert tt.rebuild(run).turns == run.turns
    reads.assert_all_once(recorded.run_id)


@pytest.mark.parametrize("command", ["verify", "regenerate", "rebuild"])
def test_a_command_reads_each_event_once(
    command: str,
    tiny_folder: Path,
    record: Callable[..., tt.Recording],
    tmp_path: Path,
    cli: Callable[..., Any],
    reads: CountingReads,
) -> None:
    database = tmp_path / "runs.db"
    with tt.open_store(database) as store:
        run_id = record(tt.load_model(tiny_folder), store, tokens=3).run_id
        count = sum(1 for _ in store.recording(run_id).records())
    reads.decoded.clear()
    code, _, _ = cli(command, run_id, "--store", str(database))

    assert code == 0
    assert reads.decoded == {(run_id, seq): 1 for seq in range(count)}
