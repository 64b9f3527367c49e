"""The chained hash that shows whether a run is what was recorded.

A seal is set at the end of each turn and of the run. It is `blake2b-256:` and, in hexadecimal, the
BLAKE2b hash (RFC 7693, 32 bytes) of the seal before it, or of `tokentape run <run_id>` for the
first, and of every record since, in the form of `canonical_bytes`. So each seal stands for all of
the run up to it, and a copy with the same last seal is the same recording.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokentape.recorder.events import RunFailed, RunFinished, RunResumed, TurnFinished
from tokentape.recorder.record import Record

ALGORITHM = "blake2b-256"
SEALED = (TurnFinished, RunFinished, RunFailed)
SEALED_KINDS = frozenset(event.__name__ for event in SEALED)
_ENDS = (RunFinished.__name__, RunFailed.__name__)
_HEAD = struct.Struct("<qqHHI")
_TOKEN = struct.Struct("<4i2f2eqH")


def canonical_bytes(record: Record) -> bytes:
    """What a seal hashes of a record, all integers little-endian.

    `seq` and `at_us` as int64, `version` and the length of the kind in bytes as uint16, the length
    of the body in bytes as uint32; the kind and the body. A body is UTF-8 JSON as it was recorded,
    or, of a `TokenSampled`, its fields: `turn`, `step`, `position`, `token_id` as int32; `logprob`,
    `logprob_processed` as float32; `entropy`, `top_gap` as binary16; microseconds as int64; the
    number of candidates as uint16, their ids as int32, their log-probabilities as binary16.
    """
    kind = record.kind.encode()
    body = record.body.encode() if isinstance(record.body, str) else _token_bytes(record.body)
    head = _HEAD.pack(record.seq, record.at_us, record.version, len(kind), len(body))
    return head + kind + body


def _token_bytes(fields: Mapping[str, Any]) -> bytes:
    ids, logprobs = fields["top_ids"], fields["top_logprobs"]
    count = len(ids)
    measured = _TOKEN.pack(
        fields["turn"],
        fields["step"],
        fields["position"],
        fields["token_id"],
        fields["logprob"],
        fields["logprob_processed"],
        fields["entropy"],
        fields["top_gap"],
        fields["duration_us"],
        count,
    )
    return measured + struct.pack(f"<{count}i{count}e", *ids, *logprobs)


class SealChain:
    """Folds the records of a run, in order; `last` is the newest seal."""

    def __init__(self, run_id: str) -> None:
        self.last: str | None = None
        self._hash = _began(f"tokentape run {run_id}")

    def seal_of(self, record: Record) -> str:
        """The seal that the record is to carry, which changes nothing here."""
        hash_ = self._hash.copy()
        hash_.update(canonical_bytes(record))
        return f"{ALGORITHM}:{hash_.hexdigest()}"

    @property
    def tail_hash(self) -> str:
        """The hash of what came since the last seal, and of that."""
        return f"{ALGORITHM}:{self._hash.hexdigest()}"

    def add(self, record: Record) -> None:
        """Fold the record in; where it carries a seal, the chain goes on from that."""
        if record.seal is None:
            self._hash.update(canonical_bytes(record))
        else:
            self.last = record.seal
            self._hash = _began(record.seal)


def _began(text: str) -> hashlib.blake2b:
    return hashlib.blake2b(text.encode(), digest_size=32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealReport:
    """What deriving the seals of a run anew has shown.

    `sealed_turns` are the turns whose seals hold, `last_seal` the last seal that holds. `fault`
    says what is wrong first and is empty where nothing is; `bad_turn` is the turn that it is in,
    None where it is outside of turns. `unsealed_events` come behind the last seal: those of a turn
    that was cut off, or of a run from before there were seals. `tail_hash` stands for these, so
    that two copies can be compared to their ends.
    """

    run_id: str
    events: int
    sealed_turns: int
    unsealed_events: int
    last_seal: str | None
    tail_hash: str
    fault: str
    bad_turn: int | None

    @property
    def holds(self) -> bool:
        return not self.fault


def check_seals(run_id: str, records: Iterable[Record]) -> SealReport:
    """Derive the chain of a run again and compare it with the recorded one.

    The first fault ends the search: nothing after it can be told from it.
    """
    check = SealCheck(run_id)
    for record in records:
        check.add(record)
        if check.fault:
            break
    return check.report()


class SealCheck:
    """Compares the seals of a run with its records, which are added one by one in order."""

    def __init__(self, run_id: str) -> None:
        self.fault = ""
        self.has_seals = False
        """Whether any record that was added carries a seal."""
        self._run_id = run_id
        self._chain = SealChain(run_id)
        self._events = self._unsealed = self._turns = 0
        self._bad_turn: int | None = None
        self._ended = False

    def add(self, record: Record) -> None:
        """Check the next record; after the first fault, records are not checked any more."""
        self.has_seals = self.has_seals or record.seal is not None
        if self.fault:
            return
        self.fault = _fault_of(record, self._events, self._chain)
        if self._ended and record.kind != RunResumed.__name__:
            self.fault = f"event {record.seq}, {record.kind}, comes behind the end of the run"
        if self.fault:
            self._bad_turn = record.turn
            return
        self._chain.add(record)
        self._ended = record.kind in _ENDS
        self._events, self._unsealed = self._events + 1, self._unsealed + 1
        if record.seal is not None:
            self._unsealed = 0
            self._turns += record.kind == TurnFinished.__name__

    def report(self) -> SealReport:
        """Return the result for the records that were added."""
        return SealReport(
            run_id=self._run_id,
            events=self._events,
            sealed_turns=self._turns,
            unsealed_events=self._unsealed,
            last_seal=self._chain.last,
            tail_hash=self._chain.tail_hash,
            fault=self.fault,
            bad_turn=self._bad_turn,
        )


def _fault_of(record: Record, due: int, chain: SealChain) -> str:
    if record.seq != due:
        return f"event {record.seq} stands where {due} is due: an event is missing"
    try:
        seal = chain.seal_of(record)
    except (struct.error, OverflowError, KeyError, TypeError, ValueError) as error:
        return f"event {record.seq} holds what was never recorded: {error}"
    if record.seal is None:
        if record.kind not in SEALED_KINDS:
            return ""
        older = "" if chain.last else ": it was recorded before there were seals, or lost them"
        return f"event {due}, {record.kind}, has no seal{older}"
    if record.seal != seal:
        return f"the seal at event {due} is not that of the events before it"
    return ""
