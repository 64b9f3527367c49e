"""Each seal covers all events before it."""

import dataclasses
import hashlib
import struct
from typing import Any

import pytest

from tests.made_events import run_started
from tokentape.recorder import Envelope, Record, Recorder
from tokentape.recorder.codec import encode
from tokentape.recorder.events import (
    CacheCleared,
    CacheDecided,
    MessageAdded,
    PrefillCompleted,
    TokenSampled,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.projections import RunSummary, summarise_all
from tokentape.recorder.seals import check_seals

STARTED = run_started()


class ListLog:
    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    def append(self, envelope: Envelope, record: Record, **more: Any) -> None:
        self.envelopes.append(envelope)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        raise AssertionError("no blob is expected")


def turn(number: int) -> list[Any]:
    return [
        MessageAdded(role="user", content="Hé", text="<Hé>", ids=(1, 2)),
        TurnStarted(
            turn=number,
            prompt_tokens=2,
            kept_tokens=2,
            kept_chars=4,
            added_ids=(),
            added_text="",
            history_reason="",
            seed=5,
            sampling={"temperature": 0.7},
        ),
        CacheDecided(
            turn=number,
            decision="miss",
            reason="cold",
            prompt_tokens=2,
            reused_tokens=0,
            computed_tokens=2,
            cached_tokens=0,
            cropped_tokens=0,
        ),
        PrefillCompleted(turn=number, chunks=(2,), duration_us=1_500, kv_bytes=9, peak_bytes=9),
        TokenSampled(
            turn=number,
            step=0,
            position=2,
            token_id=70_000,
            logprob=-1.5,
            logprob_processed=-0.25,
            entropy=0.5,
            top_gap=0.125,
            duration_us=61_234,
            top_ids=(70_000, 3),
            top_logprobs=(-1.5, -2.5),
        ),
        TurnFinished(
            turn=number,
            stop_reason="eos",
            generated_tokens=1,
            text="x",
            stop_text="",
            generator_sha256="g",
            duration_us=70_000,
        ),
    ]


@pytest.fixture
def records() -> list[Record]:
    """Return the records of a run with two turns."""
    log = ListLog()
    with Recorder(log, run_id="run", clock_us=lambda: 1_234_567) as recorder:
        for event in (STARTED, *turn(1), *turn(2), CacheCleared(reason="end", freed_bytes=3)):
            recorder.record(event)
    return [encode(envelope) for envelope in log.envelopes]


def test_a_log_gets_the_encoded_event_and_the_summary_after_it() -> None:
    given: list[tuple[Envelope, Record, RunSummary | None]] = []

    class Log(ListLog):
        def append(self, envelope: Envelope, record: Record, **more: Any) -> None:
            assert more["durable"] == envelope.event.traits.durable
            given.append((envelope, record, more["summary"]))

    with Recorder(Log(), run_id="run") as recorder:
        for event in (STARTED, *turn(1), CacheCleared(reason="end", freed_bytes=3)):
            recorder.record(event)

    envelopes = [envelope for envelope, *_ in given]
    for number, (envelope, record, summary) in enumerate(given):
        changes = envelope.event.traits.changes_summary
        assert record == encode(envelope)
        assert summary == (summarise_all(envelopes[: number + 1]) if changes else None)
    assert given[-1][2] is not None
    assert (given[-1][2].status, given[-1][2].turns) == ("finished", 1)


def test_turns_and_the_end_of_the_run_are_sealed(records: list[Record]) -> None:
    sealed = [record.kind for record in records if record.seal]
    report = check_seals("run", records)

    assert sealed == ["TurnFinished", "TurnFinished", "RunFinished"]
    assert report.ok
    assert (report.sealed_turns, report.unsealed_events) == (2, 0)
    assert report.last_seal == records[-1].seal
    assert records[-1].seal.startswith("blake2b-256:")


def test_a_seal_can_be_computed_from_its_documentation(records: list[Record]) -> None:
    """The seal is computed from the documented format alone, as another program would."""
    first = records[: [record.seal is not None for record in records].index(True) + 1]
    hashed = hashlib.blake2b(b"tokentape run run", digest_size=32)
    for record in first:
        if record.kind == "TokenSampled":
            body = struct.pack("<4i2f2eqH", 1, 0, 2, 70_000, -1.5, -0.25, 0.5, 0.125, 61_234, 2)
            body += struct.pack("<2i2e", 70_000, 3, -1.5, -2.5)
        else:
            body = record.body.encode()
        kind = record.kind.encode()
        hashed.update(
            struct.pack("<qqHHI", record.seq, 1_234_567, record.version, len(kind), len(body))
        )
        hashed.update(kind + body)

    assert first[-1].seal == f"blake2b-256:{hashed.hexdigest()}"


CHANGES: list[dict[str, Any]] = [
    {"at_us": 1_234_568},
    {"version": 9},
    {"kind": "CacheCleared"},
    {"body": '{"x":1}'},
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("seq", [0, 1, 3, 5, 6])
def test_any_change_is_found_and_its_turn_named(
    records: list[Record], seq: int, change: dict[str, Any]
) -> None:
    records[seq] = dataclasses.replace(records[seq], **change)
    report = check_seals("run", records)

    assert not report.ok
    assert report.bad_turn == 1
    assert report.sealed_turns == 0


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TokenSampled)])
def test_every_value_of_a_token_is_sealed(records: list[Record], name: str) -> None:
    kinds = [(record.kind, record.turn) for record in records]
    place = kinds.index(("TokenSampled", 2))
    body = dict(records[place].body)
    value = body[name]
    body[name] = (*value[:-1], value[-1] + 1) if isinstance(value, tuple) else value + 1
    records[place] = dataclasses.replace(records[place], body=body)
    report = check_seals("run", records)

    assert not report.ok
    assert (report.bad_turn, report.sealed_turns) == (2, 1)


def test_missing_moved_and_unsealed_events_are_found(records: list[Record]) -> None:
    swapped = [*records]
    swapped[2], swapped[3] = (
        dataclasses.replace(swapped[3], seq=2),
        dataclasses.replace(swapped[2], seq=3),
    )
    renumbered = [
        dataclasses.replace(each, seq=i) for i, each in enumerate(records[:4] + records[5:])
    ]
    unsealed = [dataclasses.replace(each, seal=None) for each in records]

    assert "an event is missing" in check_seals("run", records[:4] + records[5:]).fault
    assert not check_seals("run", swapped).ok
    assert not check_seals("run", renumbered).ok
    assert "has no seal" in check_seals("run", unsealed).fault
    assert "not that of the events before it" in check_seals("another", records).fault


def test_a_run_that_was_cut_off_is_sealed_up_to_its_last_turn(records: list[Record]) -> None:
    report = check_seals("run", records[:10])

    assert report.ok
    assert (report.sealed_turns, report.unsealed_events, report.events) == (1, 3, 10)
    assert report.last_seal == records[6].seal


def test_unsealed_events_change_the_tail_hash_only(
    records: list[Record],
) -> None:
    cut = records[:10]
    altered = [*cut[:9], dataclasses.replace(cut[9], at_us=9)]

    assert check_seals("run", altered).ok
    assert check_seals("run", altered).last_seal == check_seals("run", cut).last_seal
    assert check_seals("run", altered).tail_hash != check_seals("run", cut).tail_hash
