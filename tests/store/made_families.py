"""Runs that were resumed or forked, made by hand and with a model."""

from contextlib import suppress
from itertools import takewhile
from typing import Any

import pytest

import tokentape as tt
from tests.store.made_runs import STARTED, TICKS_US, begin, say
from tokentape.generation.errors import ForkWarning
from tokentape.recorder import Record
from tokentape.recorder.events import RunForked, RunResumed, TokenSampled
from tokentape.recorder.seals import check_seals
from tokentape.store import DatabaseStore

LAYER = "model.layers.0.input_layernorm.weight"
RESUMED = RunResumed(
    turn=None,
    step=None,
    weights_sha256=STARTED.weights_sha256,
    sampler_sha256=STARTED.sampler_sha256,
    device="cpu",
    threads=1,
    environment={},
)


def short_run(store: DatabaseStore, *, turns: int = 2) -> str:
    with begin(store) as recorder:
        for turn in range(1, turns + 1):
            say(recorder, turn, tokens=2, payload=b"payload %d" % turn)
    return recorder.run_id


def resume(store: DatabaseStore, run_id: str) -> tt.Recorder:
    """Resume a run after its last event, between turns."""
    recorder = tt.Recorder.resume(store, store.recording(run_id), clock_us=TICKS_US.__next__)
    recorder.record(RESUMED)
    return recorder


def go_on(store: DatabaseStore, run_id: str, turn: int, *, tokens: int = 2) -> None:
    """Resume a run that has ended and record one more turn."""
    with resume(store, run_id) as recorder:
        say(recorder, turn, tokens=tokens, payload=b"payload %d" % turn)


def fork(store: DatabaseStore, parent_id: str, *, at_turn: int) -> str:
    """Fork a run before a turn, and record that turn."""

    def before(record: Record) -> bool:
        return record.turn is None or record.turn < at_turn

    shared = check_seals(parent_id, takewhile(before, store.recording(parent_id).records()))
    with begin(store) as recorder:
        recorder.record(
            RunForked(
                parent_run_id=parent_id,
                parent_seq=shared.events - 1,
                parent_hash=shared.tail_hash,
                at_turn=at_turn,
                changes={},
            )
        )
        say(recorder, at_turn, tokens=3)
    return recorder.run_id


class Killed(BaseException):
    """Raised in place of a SIGKILL: nothing is written after it."""


class KilledAtToken:
    """A log that takes events up to a token of a turn."""

    def __init__(self, store: DatabaseStore, turn: int, step: int) -> None:
        self._store, self._turn, self._step = store, turn, step

    def append(self, envelope: tt.Envelope, record: Record, **more: Any) -> None:
        event = envelope.event
        if isinstance(event, TokenSampled) and (event.turn, event.step) == (self._turn, self._step):
            raise Killed
        self._store.append(envelope, record, **more)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self._store.put_blob(sha256, payload)


def record_family(lm: tt.LoadedModel, store: DatabaseStore) -> tuple[str, str, str]:
    """A run that was killed in its third turn and resumed, a fork, and a fork of that.

    Their turns of their own: 1 to 3, 2 and 3, 3; each second turn has a tool's result. A layer of
    the fork is watched, and an intervention that changes nothing acts on one turn.
    """
    sampled = {"do_sample": True, "temperature": 0.9, "max_new_tokens": 4}
    tools = tt.default_tools(lm)
    look = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": LAYER})
    parent = tt.Investigation(
        lm,
        store=KilledAtToken(store, turn=3, step=2),
        name="parent",
        system_prompt="Be kind.",
        tools=tools,
        seed=4,
    )
    with suppress(Killed), parent:
        parent.chat("One?", **sampled)
        parent.chat("Two?", tool_calls=[look], **sampled)
        parent.chat("Three?", **sampled)
    with tt.Investigation.resume(store, parent.run_id, lm, tools=tools):
        pass
    with tt.Investigation.fork(
        store, parent.run_id, lm, at_turn=2, tools=tools, name="fork"
    ) as fork:
        fork.watch([1])
        fork.intervene(tt.Intervention.placebo("nothing", [1]))
        fork.chat("Or two?", tool_calls=[look], **sampled)
        fork.withdraw("nothing")
        fork.chat("Or three?", max_new_tokens=3)
    with pytest.warns(ForkWarning, match="'nothing' right before turn 3"):
        grandchild = tt.Investigation.fork(store, fork.run_id, lm, at_turn=3, tools=tools)
    with grandchild:
        grandchild.chat("Or else?", **sampled)
    return parent.run_id, fork.run_id, grandchild.run_id
