"""An event that a store cannot hold is refused before anything is stored, and the run continues."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokentape as tt
from tests.made_events import run_started
from tokentape.recorder import Envelope, Record, Recorder, RecordingError
from tokentape.recorder.clock import LAST_US
from tokentape.recorder.codec import decode, encode
from tokentape.recorder.events import (
    CacheDecided,
    MessageAdded,
    RunFinished,
    ToolCalled,
    TurnFinished,
)
from tokentape.store import DatabaseStore

NESTED: list[Any] = []
for _ in range(100_000):
    NESTED = [NESTED]


def called(arguments: Mapping[str, Any]) -> ToolCalled:
    return ToolCalled(call_id="call_1", name="look", arguments=arguments)


def decided(prompt_tokens: int) -> CacheDecided:
    return CacheDecided(
        turn=1,
        decision="miss",
        reason="cold",
        prompt_tokens=prompt_tokens,
        reused_tokens=0,
        computed_tokens=prompt_tokens,
        cached_tokens=0,
        cropped_tokens=0,
    )


def finished(**changes: Any) -> TurnFinished:
    values = {
        "turn": 1,
        "stop_reason": "eos",
        "generated_tokens": 1,
        "text": "So.",
        "stop_text": "",
        "generator_sha256": "",
        "duration_us": 1,
    }
    return TurnFinished(**values | changes)


REFUSED = {
    "NaN in arguments": (called({"x": math.nan}), "its arguments is not JSON"),
    "infinity in arguments": (called({"x": [math.inf]}), "its arguments is not JSON"),
    "bytes in arguments": (called({"x": b"raw"}), "its arguments is not JSON"),
    "arguments nested deeply": (called({"x": NESTED}), "nested too deeply"),
    "arguments that are no mapping": (called(["x"]), "its arguments is a list"),  # type: ignore[arg-type]
    "a total that needs 65 bits": (decided(2**64), "its prompt_tokens is 18446744073709551616"),
    "a turn that needs 33 bits": (finished(turn=2**32), "its turn is 4294967296"),
    "bytes in a text": (finished(text=b"So."), "its text is not JSON"),
    "a status with NUL": (
        RunFinished(
            turns=0,
            prompt_tokens=0,
            reused_tokens=0,
            computed_tokens=0,
            generated_tokens=0,
            reason="no\0",
        ),
        "status of the run contains NUL",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_event_that_no_store_holds_is_refused_and_the_run_continues(
    case: str, live_store: DatabaseStore
) -> None:
    event, why = REFUSED[case]
    with Recorder(live_store) as recorder:
        recorder.record(run_started())
        with pytest.raises(
            RecordingError, match=f"run {recorder.run_id}, event 1, {type(event).__name__}"
        ) as caught:
            recorder.record(event)
        recorder.record(called({"x": 2**70}))

    assert why in str(caught.value)
    kinds = [each.kind for each in live_store.recording(recorder.run_id).records()]
    assert kinds == ["RunStarted", "ToolCalled", "RunFinished"]
    assert tt.check(live_store, recorder.run_id).ok


def test_a_total_that_outgrows_64_bits_is_refused(live_store: DatabaseStore) -> None:
    with Recorder(live_store) as recorder:
        recorder.record(run_started())
        recorder.record(decided(2**63 - 1))
        with pytest.raises(RecordingError, match="prompt_tokens of the run"):
            recorder.record(decided(2**63 - 1))

    summary = live_store.summary(recorder.run_id)
    assert summary is not None
    assert (summary.status, summary.prompt_tokens) == ("finished", 2**63 - 1)


@pytest.mark.parametrize("at_us", [-1, LAST_US + 1, 2**63, 2**63 * 1000])
def test_a_clock_without_a_date_is_refused(store: DatabaseStore, at_us: int) -> None:
    times = iter([10**15, 10**15, at_us, 10**15])
    recorder = Recorder(store, clock_us=times.__next__)
    recorder.record(run_started())
    with pytest.raises(RecordingError, match="the clock gives"):
        recorder.record(called({}))
    recorder.record(called({}))

    assert len(list(store.recording(recorder.run_id).records())) == 2
    with pytest.raises(RecordingError, match="the clock gives"):
        Recorder(store, clock_us=lambda: at_us)


def test_a_name_that_utf8_lacks_is_recorded_with_escapes(live_store: DatabaseStore) -> None:
    with Recorder(live_store) as recorder:
        recorder.record(run_started(name="a\ud800", model="m\udcff"))

    (summary,) = live_store.summaries()
    assert (summary.name, summary.model) == ("a\\ud800", "m\\udcff")


def test_an_id_that_no_store_holds_is_refused(store: DatabaseStore) -> None:
    with pytest.raises(RecordingError, match="run_id"):
        Recorder(store, run_id="r\ud800")


def test_lone_surrogates_are_recorded_as_their_escapes(live_store: DatabaseStore) -> None:
    """A run goes on although a tool or a model gave half of a character."""
    with Recorder(live_store) as recorder:
        recorder.record(run_started())
        event = called({"a\ud800": ["\udcff", {"deep": "x\udc80y 🙂"}]})
        envelope = recorder.record(event)
        recorder.record(MessageAdded(role="user", content="\ud83d", text="\ud83d", ids=()))

    arguments = {"a\\ud800": ["\\udcff", {"deep": "x\\udc80y 🙂"}]}
    recording = live_store.recording(recorder.run_id)
    recorded = [each.event for each in recording.events()]
    assert recorded[1] == envelope.event == called(arguments)
    assert recorded[2] == MessageAdded(role="user", content="\\ud83d", text="\\ud83d", ids=())
    assert tt.check(live_store, recorder.run_id).ok
    assert len(tt.events_df(live_store)) == 4


def test_the_end_of_a_run_that_fails_with_a_lone_surrogate_is_recorded(
    store: DatabaseStore,
) -> None:
    with pytest.raises(KeyError), Recorder(store) as recorder:
        recorder.record(run_started())
        raise KeyError("\ud800")

    assert store.summaries()[0].status == "failed"


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.binary(max_size=2),
        st.text(st.characters()),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(st.characters()), inner, max_size=3)
    ),
    max_leaves=6,
)


class Log:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, envelope: Envelope, record: Record, **more: Any) -> None:
        self.records.append(record)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        raise AssertionError("no blob is expected")


@given(arguments=st.dictionaries(st.text(st.characters()), JSON, max_size=3))
def test_whatever_is_recorded_reads_back_and_all_else_is_refused(
    arguments: dict[str, Any],
) -> None:
    log = Log()
    recorder = Recorder(log)
    recorder.record(run_started())
    try:
        envelope = recorder.record(called(arguments))
    except RecordingError:
        assert len(log.records) == 1
        return
    assert decode(recorder.run_id, log.records[1]) == envelope
    assert encode(envelope) == log.records[1]
    assert isinstance(log.records[1].body, str)
    json.loads(log.records[1].body.encode())
