"""Families of made conversations: forks, forks of forks, and runs that were resumed."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import tokentape as tt
from tests.made_events import run_started
from tests.replay.made_talk import Said, ids_of, talk_events, turn_events
from tests.store.made_families import RESUMED
from tokentape.recorder import Envelope
from tokentape.recorder.events import (
    Event,
    InterventionApplied,
    MessageAdded,
    RunFailed,
    RunForked,
    SystemPromptCached,
    TokenSampled,
)
from tokentape.store import DatabaseStore

FAILED = RunFailed(error="Killed", message="", traceback="")
VOID = MessageAdded(role="user", content="void", text="void", ids=ids_of("void"))
_IDS = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run of a family, and the turns that it consists of, shared ones included."""

    recording: tt.Recording
    turns: tuple[Said, ...]
    system: str


def root(store: DatabaseStore, turns: Sequence[Said], *, system: str = "Be kind. ") -> Member:
    """Record a run that is no fork; its last event is that of its last turn."""
    events = talk_events(turns, system=system, ended=False)
    return _recorded(store, events, tuple(turns), system)


def fork(store: DatabaseStore, parent: Member, at_turn: int, turns: Sequence[Said]) -> Member:
    """Record a fork of a run before a turn, and these turns of its own."""
    last = _shared(list(parent.recording.events()), at_turn)[-1]
    kept = parent.turns[: at_turn - 1]
    stream = parent.system + "".join(map(_stream_of, kept))
    events: list[Event] = [
        run_started(),
        RunForked(
            parent_run_id=last.run_id,
            parent_seq=last.seq,
            parent_hash="",
            at_turn=at_turn,
            changes={},
        ),
    ]
    for number, said in enumerate(turns, start=at_turn):
        events += turn_events(number, said, stream)
        stream += _stream_of(said)
    return _recorded(store, events, (*kept, *turns), parent.system)


def resumed(store: DatabaseStore, turns: Sequence[Said], after_tokens: int) -> Member:
    """Record a run that was killed and resumed: before each turn, once it had recorded a message,
    and within each turn after so many tokens."""
    events: list[Event] = []
    for event in talk_events(turns, ended=False):
        if isinstance(event, MessageAdded) and event.role == "user":
            events += (VOID, FAILED, RESUMED)
        if isinstance(event, TokenSampled) and event.step == after_tokens:
            events += (FAILED, replace(RESUMED, turn=event.turn, step=event.step))
        events.append(event)
    return _recorded(store, events, tuple(turns), "Be kind. ")


def applied(turn: int, position: int, **changes: Any) -> InterventionApplied:
    """Return a steering vector in a layer, except for `changes`."""
    described: Any = {
        "name": "it", "kind": "steer", "layers": ("model.layers.0",), "coefficient": 2.5,
        "dimensions": (), "tensor_sha256": "", "tensor_start": None, "positions": "all",
        "schedule": {}, "source": {},
    }  # fmt: skip
    return InterventionApplied(turn=turn, position=position, **described | changes)


def _shared(envelopes: Sequence[Envelope], at_turn: int) -> list[Envelope]:
    """Return the events before a turn, as `Investigation.fork` shares them."""

    def is_before(each: Envelope) -> bool:
        is_system = isinstance(each.event, SystemPromptCached)
        return each.turn is None or each.turn < at_turn or is_system

    return list(itertools.takewhile(is_before, envelopes))


def _stream_of(said: Said) -> str:
    return f"{said.asked}{said.tool or ''}:{said.reply}"


def _recorded(
    store: DatabaseStore, events: Sequence[Event], turns: tuple[Said, ...], system: str
) -> Member:
    log = tt.Recorder(store, run_id=f"{next(_IDS):04}")
    for event in events:
        if log.ended:
            log = tt.Recorder.resume(store, store.recording(log.run_id))
        log.record(event)
    return Member(recording=store.recording(log.run_id), turns=turns, system=system)
