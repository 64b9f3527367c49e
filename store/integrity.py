"""Whether a run is what was recorded: its seals, and what hangs on them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from tokentape.recorder import Envelope, Record, Recording, RecordingError
from tokentape.recorder.codec import decode
from tokentape.recorder.envelope import TurnCounter
from tokentape.recorder.events import (
    Event,
    InterventionApplied,
    InterventionRequested,
    RunForked,
    ToolReturned,
    TurnFinished,
)
from tokentape.recorder.projections import iterate_turns, summarise, summarise_all
from tokentape.recorder.seals import check_seals
from tokentape.store.errors import StoreError
from tokentape.store.payloads import payload_of
from tokentape.store.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """What a check has found.

    `faults` is empty where all is as it was recorded; `bad_turn` is the first turn with a fault,
    None where the fault is outside of turns. `unsealed_events` come behind the last seal: nothing
    vouches for them yet, or ever, where the run was cut off. Two copies with the same `last_seal`
    are the same recording up to it.
    """

    run_id: str
    events: int
    sealed_turns: int
    unsealed_events: int
    last_seal: str | None
    bad_turn: int | None
    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def is_sealed(self) -> bool:
        """False where no turn was sealed yet, or where the run is from before there were seals."""
        return self.last_seal is not None


def check(source: Source, run_id: str, *, seal: str | None = None) -> Integrity:
    """Derive the seals of a run anew, and compare with its events what was derived from them.

    `seal` is the last seal as it was noted elsewhere, if it was: that shows a run whose end is
    missing, or which was sealed anew. Raises NoSuchRunError, and StoreError or RecordingError where
    the run cannot even be read.
    """
    recording = source.recording(run_id)
    report = check_seals(recording.run_id, recording.records())
    faults = [*source.verify_files(recording.run_id), *filter(None, [report.fault])]
    bad_turn = report.bad_turn
    if not faults:
        found = next(_other_faults(source, recording, report.events), None)
        if found is not None:
            bad_turn, fault = found
            faults.append(fault)
    if seal is not None and seal != report.last_seal:
        faults.append(f"the last seal is {report.last_seal}, not {seal}")
    return Integrity(
        run_id=recording.run_id,
        events=report.events,
        sealed_turns=report.sealed_turns,
        unsealed_events=report.unsealed_events,
        last_seal=report.last_seal,
        bad_turn=bad_turn,
        faults=tuple(faults),
    )


def _other_faults(
    source: Source, recording: Recording, seen_events: int
) -> Iterator[tuple[int | None, str]]:
    """What no seal covers, because it follows from what they do; with the turn it is in.

    A run that is being recorded has `seen_events` and perhaps more by now.
    """
    # Read in between: it is as old as the events that were seen, or as one that came since.
    row = source.summary(recording.run_id)
    envelopes: list[Envelope] = []
    turns = TurnCounter()
    for record in recording.records():
        try:
            envelope = decode(recording.run_id, record)
        except RecordingError as error:
            yield record.turn, str(error)
            return
        turn = turns.turn_of(envelope.event)
        if turn != record.turn:
            yield turn, f"event {record.seq} is filed under turn {record.turn}, not {turn}"
        fault = _blob_fault(source, record, envelope.event)
        if fault:
            yield turn, fault
        if isinstance(envelope.event, RunForked) and record.seq != 1:
            yield turn, f"event {record.seq} says that the run was forked, and only its second can"
        envelopes.append(envelope)
    forked = recording.forked()
    if forked is not None:
        yield from _parent_faults(recording, forked)
    try:
        for _ in iterate_turns(recording.events() if forked else envelopes):
            pass
    except RecordingError as error:
        yield None, str(error)
    summary = summarise_all(envelopes[:seen_events])
    for envelope in envelopes[seen_events:]:
        if row == summary:
            break
        summary = summarise(summary, envelope)
    if row != summary:
        yield None, "the row of the run is not what its events add up to"


def parent_fault(forked: RunForked, parent: Recording) -> str:
    """What is wrong with the events that a fork shares, behind "its parent, "; empty if nothing.

    Raises StoreError and RecordingError where they cannot be read.
    """
    shared = takewhile(lambda record: record.seq <= forked.parent_seq, parent.records())
    report = check_seals(parent.run_id, shared)
    if report.fault:
        return f"run {parent.run_id}, does not hold: {report.fault}"
    if report.events <= forked.parent_seq:
        return (
            f"run {parent.run_id}, has {report.events} events of the {forked.parent_seq + 1} that "
            "they share"
        )
    if report.tail_hash != forked.parent_hash:
        return f"run {parent.run_id}, is not what it was forked from"
    return ""


def _parent_faults(recording: Recording, forked: RunForked) -> Iterator[tuple[None, str]]:
    """Whether the events that a fork shares are still those that it was forked from."""
    try:
        fault = parent_fault(forked, recording.parent(forked))
    except (RecordingError, StoreError) as error:
        yield None, f"its parent cannot be read: {error}"
        return
    if fault:
        yield None, f"its parent, {fault}"
        return
    shared_turns = [
        each.event.turn
        for each in recording.events()
        if isinstance(each.event, TurnFinished) and each.run_id != recording.run_id
    ]
    due = max(shared_turns, default=0) + 1
    if forked.at_turn != due:
        yield None, f"it was forked at turn {due}, and says {forked.at_turn}"


def _blob_fault(source: Source, record: Record, event: Event) -> str:
    sha256 = payload_of(record)
    if not sha256 and not isinstance(event, ToolReturned):
        return ""
    try:
        payload = source.blob(sha256)
    except StoreError as error:
        return str(error)
    is_right = hashlib.sha256(payload).hexdigest() == sha256
    if isinstance(event, InterventionRequested | InterventionApplied):
        return "" if is_right else f"the tensor of intervention {event.name} is another"
    if not isinstance(event, ToolReturned):
        return "" if is_right else "the list of the weights is not the one that was recorded"
    if not is_right or len(payload) != event.payload_bytes:
        return f"the payload of call {event.call_id} is not what the tool returned"
    return ""
