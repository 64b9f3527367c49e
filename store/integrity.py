"""Check that a run is unaltered: its seals, and all that is derived from its events."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike

from tokentape.recorder import Envelope, Record, Recording, RecordingError
from tokentape.recorder.codec import decode
from tokentape.recorder.envelope import TurnCounter
from tokentape.recorder.events import (
    Event,
    InterventionApplied,
    InterventionRequested,
    RunForked,
    TokenSampled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.paths import expand_path
from tokentape.recorder.projections import iterate_turns, summarise, summarise_all
from tokentape.recorder.seals import SealCheck, SealReport, check_seals
from tokentape.store.errors import StoreError
from tokentape.store.expectations import seal_shortfall
from tokentape.store.payloads import payload_of
from tokentape.store.signing.keys import check_installed
from tokentape.store.signing.signatures import (
    SignatureCheck,
    check_signature,
    faults_of,
    signatures_of,
    unsigned,
)
from tokentape.store.signing.signers import Signers
from tokentape.store.source import CheckedSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """The result of checking a run."""

    run_id: str
    events: int
    sealed_turns: int
    """Turns whose seals were verified."""
    unsealed_events: int
    """Events after the last seal, which nothing verifies: those of a turn that has not ended or
    never will."""
    last_seal: str | None
    """Two copies with the same last seal are the same recording up to it."""
    bad_turn: int | None
    """The first turn with a fault; None if there is no fault or it is outside of turns."""
    faults: tuple[str, ...]
    """What is wrong, a line each; empty for an unaltered run."""
    unmet: tuple[str, ...] = ()
    """How the run differs from what the caller expected, a line each."""
    signatures: tuple[SignatureCheck, ...] = ()
    """The signatures that are stored with the run, the oldest first."""

    @property
    def ok(self) -> bool:
        """Whether no fault was found, and the run is the one that was expected."""
        return not self.faults and not self.unmet

    @property
    def is_sealed(self) -> bool:
        """Whether at least one turn is sealed; otherwise there was little to check."""
        return self.last_seal is not None


def check(
    source: CheckedSource,
    run_id: str,
    *,
    expect: str | None = None,
    signers: str | PathLike[str] | None = None,
    seal: str | None = None,
) -> Integrity:
    """Compute the seals of a run again, and compare all else that is stored of it with its events.

    That is its payloads, its summary, the files, and the schema and keys of a database. Verdicts,
    floors and labels are compared with their own sha256.

    `expect` is the last seal as the caller noted it elsewhere, or the first 16 or more of its
    digits: it reveals a run whose end is missing or that was sealed again. `signers` is the path of
    an `allowed_signers` file or of public keys: one of them must have signed the last seal. `seal`
    is `expect` as version 0.1.0 had it, the whole text of a seal. Raise NoSuchRunError for an
    unknown run, TokentapeError for an `expect` that is no seal and for signers that cannot be read,
    StoreError or RecordingError for a run that cannot be read.

    Example:
        >>> import tokentape as tt
        >>> found = tt.check(store, run_id)
        >>> found.ok, found.sealed_turns, found.faults
        (True, 3, ())
        >>> tt.check(store, run_id, expect=found.last_seal).ok
        True
    """
    known = None if signers is None else Signers.read(expand_path(signers))
    if known is not None:
        check_installed()
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
    unmet = [seal_shortfall(expect, report)] if expect is not None else []
    signatures: list[SignatureCheck] = []
    try:
        # This reads all verdicts.
        stored = signatures_of(source, recording.run_id)
    except StoreError as error:
        faults.append(str(error))
    else:
        signatures = [check_signature(each, report, known) for each in stored]
        faults += faults_of(signatures)
    if known is not None:
        unmet.append(unsigned(signatures, known, report.last_seal))
    return Integrity(
        run_id=recording.run_id,
        events=report.events,
        sealed_turns=report.sealed_turns,
        unsealed_events=report.unsealed_events,
        last_seal=report.last_seal,
        bad_turn=bad_turn,
        faults=tuple(faults),
        unmet=tuple(filter(None, unmet)),
        signatures=tuple(signatures),
    )


def own_fault(source: CheckedSource, run_id: str) -> str:
    """Return the first fault that `check` finds in the events of a run; "" for none.

    The events that a fork shares with its parent are not read: see `parent_faults`.
    """
    recording = source.recording(run_id)
    report = check_seals(recording.run_id, recording.records())
    faults = [*source.verify_files(run_id), *filter(None, [report.fault])]
    if not faults:
        others = _other_faults(source, recording, report.events, shared=False)
        faults += (fault for _, fault in others)
    if not faults:
        signatures = signatures_of(source, run_id)
        faults += faults_of([check_signature(each, report) for each in signatures])
    return faults[0] if faults else ""


def _other_faults(
    source: CheckedSource, recording: Recording, seen_events: int, *, shared: bool = True
) -> Iterator[tuple[int | None, str]]:
    """Yield the turn and the text of faults in what seals do not cover but events imply.

    The seals of the first `seen_events` were checked; a run that is being recorded has more by now.
    The events that a fork shares are read only if `shared`.
    """
    # Read after those events and before the next ones, so it matches one of the states between.
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
            yield (
                turn,
                f"event {record.seq} says that the run was forked; only event 1 can",
            )
        envelopes.append(envelope)
    forked = recording.forked()
    if forked is not None and shared:
        yield from _parent_faults(recording, forked)
    if forked is None or shared:
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
        yield None, "the summary of the run differs from what its events add up to"
    try:
        source.floors(recording.run_id)
        source.labels(recording.run_id)
    except StoreError as error:
        yield None, str(error)


def parent_faults(forks: Sequence[RunForked], parent: Recording) -> list[str]:
    """Return for each fork of a run the fault of the events that they share, "" for none.

    A fault is to follow "its parent, ". The parent is read once. Raise StoreError or
    RecordingError if it cannot be read.
    """
    reports = _reports_up_to({each.parent_seq for each in forks}, parent)
    return [_parent_fault(each, reports[each.parent_seq]) for each in forks]


def _reports_up_to(seqs: Collection[int], recording: Recording) -> dict[int, SealReport]:
    """Return for each `seq` the report on the seals of the events up to it."""
    due = sorted(seqs, reverse=True)
    reports = {}
    check = SealCheck(recording.run_id)
    for record in recording.records():
        while due and record.seq > due[-1]:
            reports[due.pop()] = check.report()
        if not due or check.fault:
            break
        check.add(record)
    return reports | dict.fromkeys(due, check.report())


def _parent_fault(forked: RunForked, shared: SealReport) -> str:
    if shared.fault:
        return f"run {shared.run_id}, is altered: {shared.fault}"
    if shared.events <= forked.parent_seq:
        return (
            f"run {shared.run_id}, has only {shared.events} of the {forked.parent_seq + 1} events "
            "that they share"
        )
    if shared.tail_hash != forked.parent_hash:
        return f"run {shared.run_id}, differs from the run that it was forked from"
    return ""


def _parent_faults(recording: Recording, forked: RunForked) -> Iterator[tuple[None, str]]:
    """Yield faults in the events that a fork shares with its parent."""
    try:
        (fault,) = parent_faults([forked], recording.parent(forked))
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
    place = f"turn {due}" if forked.at_token is None else _place_of_tokens(recording)
    if place != forked.place:
        yield None, f"it was forked at {place}, but says {forked.place}"


def _place_of_tokens(recording: Recording) -> str:
    """Return the turn that a fork shares in part, and its first token that is not shared."""
    turn, token = 0, 0
    for each in recording.events():
        if each.run_id != recording.run_id:
            if isinstance(each.event, TurnStarted):
                turn, token = each.event.turn, each.event.first_step
            elif isinstance(each.event, TokenSampled):
                token = each.event.step + 1
    return f"turn {turn}, token {token}"


def _blob_fault(source: CheckedSource, record: Record, event: Event) -> str:
    sha256 = payload_of(record)
    if not sha256 and not isinstance(event, ToolReturned):
        return ""
    try:
        payload = source.blob(sha256)
    except StoreError as error:
        return str(error)
    is_right = hashlib.sha256(payload).hexdigest() == sha256
    if isinstance(event, InterventionRequested | InterventionApplied):
        return "" if is_right else f"the tensor of intervention {event.name} was altered"
    if not isinstance(event, ToolReturned):
        return "" if is_right else "the weights manifest was altered"
    if not is_right or len(payload) != event.payload_bytes:
        return f"the payload of call {event.call_id} was altered"
    return ""
