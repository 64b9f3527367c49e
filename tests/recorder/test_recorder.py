"""`Recorder` numbers events and ends runs."""

import dataclasses
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.made_events import run_started
from tokentape.recorder import Envelope, Record, Recorder, Recording, RecordingError, TokentapeError
from tokentape.recorder.codec import encode
from tokentape.recorder.events import (
    CacheCleared,
    Event,
    HistoryPruned,
    MessageAdded,
    RunFailed,
    RunFinished,
    TurnStarted,
)
from tokentape.recorder.projections import RunSummary
from tokentape.recorder.run_id import uuid7

STARTED = run_started()
CLEARED = CacheCleared(reason="asked", freed_bytes=0)


@dataclass
class ListLog:
    envelopes: list[Envelope] = field(default_factory=list)
    durable: list[bool] = field(default_factory=list)

    def append(
        self, envelope: Envelope, record: Record, *, durable: bool, summary: RunSummary | None
    ) -> None:
        self.envelopes.append(envelope)
        self.durable.append(durable)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        raise AssertionError("no blob is expected")


def recorder_on(log: ListLog) -> Recorder:
    ticks = iter(range(0, 10**9, 1_000))
    return Recorder(log, clock_us=lambda: next(ticks), random_bytes=lambda count: bytes(count))


def test_events_are_numbered_from_zero_and_stamped_by_the_clock() -> None:
    log = ListLog()
    recorder = recorder_on(log)
    for event in (STARTED, CLEARED, CLEARED):
        recorder.record(event)

    assert [each.seq for each in log.envelopes] == [0, 1, 2]
    assert [each.at_us for each in log.envelopes] == [1000, 2000, 3000]
    assert {each.run_id for each in log.envelopes} == {recorder.run_id}
    assert log.durable == [True, False, False]


def test_a_run_starts_once_and_first() -> None:
    recorder = recorder_on(ListLog())

    with pytest.raises(TokentapeError, match="comes first"):
        recorder.record(CLEARED)
    recorder.record(STARTED)
    with pytest.raises(TokentapeError, match="one RunStarted"):
        recorder.record(STARTED)


def test_leaving_the_block_finishes_the_run_and_closes_it() -> None:
    log = ListLog()
    with recorder_on(log) as recorder:
        recorder.record(STARTED)

    assert isinstance(log.envelopes[-1].event, RunFinished)
    with pytest.raises(TokentapeError, match="has ended"):
        recorder.record(CLEARED)


def test_an_error_in_the_block_is_the_last_event() -> None:
    log = ListLog()
    with pytest.raises(KeyError), recorder_on(log) as recorder:
        recorder.record(STARTED)
        raise KeyError("lost")

    failed = log.envelopes[-1].event
    assert isinstance(failed, RunFailed)
    assert failed.error == "KeyError"
    assert "lost" in failed.traceback


class FullLog(ListLog):
    """A log that accepts only the first event."""

    def append(self, envelope: Envelope, record: Record, **more: Any) -> None:
        if envelope.seq:
            raise TokentapeError("disk full")
        super().append(envelope, record, **more)


def test_an_end_that_cannot_be_recorded_does_not_hide_the_first_error() -> None:
    with pytest.raises(KeyError, match="lost") as raised, recorder_on(FullLog()) as recorder:
        recorder.record(STARTED)
        raise KeyError("lost")

    assert "was not recorded: disk full" in raised.value.__notes__[0]


def test_a_run_that_never_started_leaves_nothing() -> None:
    log = ListLog()
    with recorder_on(log):
        pass

    assert log.envelopes == []


def test_run_ids_are_version_7_and_sort_by_time() -> None:
    early, late = uuid7(1_000_000_000_000, bytes(10)), uuid7(2_000_000_000_000, bytes(10))

    assert uuid.UUID(early).version == 7
    assert uuid.UUID(early).variant == uuid.RFC_4122
    assert early < late
    assert uuid7(0, b"\xff" * 10).startswith("00000000-0000-7fff-bfff-")


def test_a_gap_in_the_sequence_is_found_when_read() -> None:
    records = [encode(Envelope("r", 0, 0, STARTED)), encode(Envelope("r", 2, 0, CLEARED))]

    with pytest.raises(RecordingError, match="event 2 where 1 is due"):
        list(Recording("r", lambda: iter(records)).events())


def test_a_turn_that_keeps_more_than_the_stream_has_is_refused() -> None:
    turn = TurnStarted(
        turn=1,
        prompt_tokens=6,
        kept_tokens=5,
        kept_chars=0,
        added_ids=(1,),
        added_text="x",
        history_reason="",
        seed=None,
        sampling={},
    )
    with pytest.raises(RecordingError, match="events before it are missing"):
        recording_of(turn).turns()


PRUNED = HistoryPruned(
    turn=1,
    policy="turns",
    reason="",
    removed_tokens=((1, 2), (4, 6)),
    removed_chars=((0, 1), (3, 5)),
    removed_messages=(1,),
    tokens_before=7,
    tokens_after=4,
)
STREAM = MessageAdded(role="user", content="", text="abcdefg", ids=(0, 1, 2, 3, 4, 5, 6))
TURN = TurnStarted(
    turn=1,
    prompt_tokens=5,
    kept_tokens=4,
    kept_chars=4,
    added_ids=(9,),
    added_text="z",
    history_reason="",
    seed=None,
    sampling={},
)


def recording_of(*events: Event) -> Recording:
    envelopes = (Envelope("r", seq, 0, event) for seq, event in enumerate((STARTED, *events)))
    records = [encode(envelope) for envelope in envelopes]
    return Recording("r", lambda: iter(records))


def test_later_prompts_lack_the_pruned_ranges() -> None:
    (turn,) = recording_of(STREAM, PRUNED, TURN).turns()

    assert turn.prompt_ids == (0, 2, 3, 6, 9)
    assert turn.prompt_text == "bcfgz"
    assert turn.pruned == PRUNED


@pytest.mark.parametrize(
    "change", [{"tokens_before": 8, "tokens_after": 5}, {"removed_chars": ((0, 8),)}]
)
def test_a_pruning_of_ranges_that_the_stream_lacks_is_refused(change: dict[str, Any]) -> None:
    pruned = dataclasses.replace(PRUNED, **change)

    with pytest.raises(RecordingError, match="not have the ranges that were pruned"):
        recording_of(STREAM, pruned, TURN).turns()
