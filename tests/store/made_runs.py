"""Runs made by hand, of every shape, without a model."""

import hashlib
import itertools
from collections.abc import Iterable
from typing import Any

import tokentape as tt
from tests.made_events import run_started
from tokentape.recorder.codec import encode
from tokentape.recorder.events import (
    CacheDecided,
    TokenSampled,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.projections import summarise
from tokentape.store import StoredFloor, StoredVerdict

STARTED = run_started(name="by\nhand é", generation_config={"top_p": 0.9})


def token(turn: int, step: int, *, candidates: int) -> TokenSampled:
    return TokenSampled(
        turn=turn,
        step=step,
        position=3 + step,
        token_id=7 * step,
        logprob=-0.100000001490116119384765625,
        logprob_processed=-1.5,
        entropy=0.333251953125,
        top_gap=2.5,
        duration_us=step * 100,
        top_ids=tuple(range(candidates)),
        top_logprobs=tuple(-0.5 * rank for rank in range(candidates)),
    )


def say(recorder: tt.Recorder, turn: int, *, tokens: int, payload: bytes = b"") -> None:
    """Record one turn, after a tool result if there is a payload."""
    if payload:
        sha256 = hashlib.sha256(payload).hexdigest()
        recorder.put_blob(sha256, payload)
        recorder.record(ToolCalled(call_id=f"c{turn}", name="look", arguments={"at": [turn, None]}))
        recorder.record(
            ToolReturned(
                call_id=f"c{turn}",
                name="look",
                content='seen \u2028 "é" \U0001f600',
                content_tokens=3,
                payload_sha256=sha256,
                payload_bytes=len(payload),
                payload_tokens=5,
                tensors=({"name": "w", "shape": [2, 3]},),
                error=None,
                duration_us=1_250,
            )
        )
    recorder.record(
        TurnStarted(
            turn=turn,
            prompt_tokens=3,
            kept_tokens=0,
            kept_chars=0,
            added_ids=(1, 2, 3),
            added_text="abc",
            history_reason="",
            seed=turn,
            sampling={"do_sample": True, "temperature": 0.7},
        )
    )
    recorder.record(
        CacheDecided(
            turn=turn,
            decision="miss",
            reason="empty",
            prompt_tokens=3,
            reused_tokens=0,
            computed_tokens=3,
            cached_tokens=0,
            cropped_tokens=0,
        )
    )
    for step in range(tokens):
        recorder.record(token(turn, step, candidates=turn % 3))
    recorder.record(
        TurnFinished(
            turn=turn,
            stop_reason="eos",
            generated_tokens=tokens,
            text="so",
            stop_text="",
            generator_sha256="",
            duration_us=2_500,
        )
    )


TICKS_US = itertools.count(1_800_000_000_000_000, 1500)


def begin(log: tt.EventLog, run_id: str | None = None) -> tt.Recorder:
    """A recorder whose run has started; a later one has a later id."""
    recorder = tt.Recorder(log, run_id=run_id, clock_us=TICKS_US.__next__)
    recorder.record(STARTED)
    return recorder


def make_run(
    log: tt.EventLog, *, turns: int = 3, tokens: int = 4, run_id: str | None = None
) -> str:
    """Record a run of some turns, with a payload in each second one, and return its id."""
    with begin(log, run_id) as recorder:
        for turn in range(1, turns + 1):
            payload = b"payload %d" % turn if turn % 2 == 0 else b""
            say(recorder, turn, tokens=tokens, payload=payload)
    return recorder.run_id


def append_all(log: tt.EventLog, envelopes: Iterable[tt.Envelope]) -> None:
    """Append recorded events to a log, as their recorder did, but none durably."""
    summary = None
    for envelope in envelopes:
        summary = summarise(summary, envelope)
        log.append(envelope, encode(envelope), durable=False, summary=summary)


def verdict_of(run_id: str, at_us: int = 10**15, **changes: Any) -> StoredVerdict:
    plain: dict[str, Any] = {
        "replay": "verify",
        "verdict": "verified",
        "report": {"reason": "all is well", "turns": []},
    }
    return StoredVerdict(run_id=run_id, at_us=at_us, **plain | changes)


def floor_of(run_id: str, at_us: int = 10**15) -> StoredFloor:
    return StoredFloor(run_id=run_id, at_us=at_us, version="mine", floor={"margin_eps": 0.001})
