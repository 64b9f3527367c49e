"""The chained hash that shows whether a run was altered after its recording.

The events that end a round, a turn or the run carry a seal. It is `blake2b-256:` and the
hexadecimal BLAKE2b hash (RFC 7693, 32 bytes) of the previous seal, or of `tokentape run <run_id>`
for the first, followed by the `canonical_bytes` of every record since. Each seal therefore covers
the whole run up to it, and two copies with the same last seal are the same recording.
"""

import hashlib
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokentape.recorder.errors import TokentapeError
from tokentape.recorder.events import EVENT_CLASSES, RunResumed, TurnFinished
from tokentape.recorder.record import Record

ALGORITHM = "blake2b-256"
PREFIX_DIGITS_MIN = 16
"""How many hexadecimal digits of a seal are enough to name it."""
SEALED_KINDS = frozenset(kind for kind, cls in EVENT_CLASSES.items() if cls.traits.sealed)
_ENDING_KINDS = frozenset(kind for kind, cls in EVENT_CLASSES.items() if cls.traits.ends_run)
_SEAL = re.compile(rf"(?:{ALGORITHM}:)?([0-9a-f]{{{PREFIX_DIGITS_MIN},64}})")
_HEAD = struct.Struct("<qqHHI")
_TOKEN = struct.Struct("<4i2f2eqH")


def canonical_bytes(record: Record) -> bytes:
    """Return the bytes of a record that a seal covers, all integers little-endian.

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
    """Computes the seals of a run from its records, in order.

    `after_seal` is the seal of the record before the first that is added; None for a whole run.
    """

    def __init__(self, run_id: str, *, after_seal: str | None = None) -> None:
        self.last = after_seal
        """The newest seal."""
        self._hash = _begun(f"tokentape run {run_id}" if after_seal is None else after_seal)

    def seal_of(self, record: Record) -> str:
        """Return the seal that the next record would carry, without adding it."""
        hash_ = self._hash.copy()
        hash_.update(canonical_bytes(record))
        return f"{ALGORITHM}:{hash_.hexdigest()}"

    @property
    def tail_hash(self) -> str:
        """The hash of the last seal and the records since."""
        return f"{ALGORITHM}:{self._hash.hexdigest()}"

    def add(self, record: Record) -> None:
        """Add the next record. If it carries a seal, the chain continues from that."""
        if record.seal is None:
            self._hash.update(canonical_bytes(record))
        else:
            self.last = record.seal
            self._hash = _begun(record.seal)


def _begun(text: str) -> hashlib.blake2b:
    return hashlib.blake2b(text.encode(), digest_size=32)


def parse_seal(text: str) -> str:
    """Return a seal, or the beginning of one, as seals are written.

    `text` is a seal as it is printed, or at least 16 hexadecimal digits from its beginning, with or
    without the name of the hash. Raise TokentapeError for anything else.
    """
    found = _SEAL.fullmatch(text.strip().lower())
    if found is None:
        raise TokentapeError(
            f"{text!r} is no seal: give it as `tokentape check` prints it, or its first "
            f"{PREFIX_DIGITS_MIN} or more hexadecimal digits"
        )
    return f"{ALGORITHM}:{found[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealPoint:
    """A right seal of a run, and how much of the run it covers."""

    seal: str
    events: int
    """The events from the beginning of the run to the one with the seal."""
    turns: int
    """The rounds and turns that have ended among them."""
    last_turn: int | None
    """The number of the last of these; None before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealReport:
    """The result of computing the seals of a run again."""

    run_id: str
    events: int
    """Events up to the first fault."""
    sealed_turns: int
    """Rounds and turns whose seals are right."""
    unsealed_events: int
    """Events after the last right seal, such as those of a turn that was cut off."""
    last_seal: str | None
    """The last right seal."""
    tail_hash: str
    """The hash of that seal and the events after it: two copies are equal if their hashes are."""
    fault: str
    """The first fault; empty if the run is as it was recorded."""
    bad_turn: int | None
    """The turn of the fault; None if it is outside of turns."""
    points: tuple[SealPoint, ...] = field(default=(), repr=False)
    """All right seals, in order."""

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.fault


def check_seals(run_id: str, records: Iterable[Record]) -> SealReport:
    """Compute the seals of a run again and compare them with the recorded ones.

    The first fault ends the check: later seals depend on it.
    """
    check = SealCheck(run_id)
    for record in records:
        check.add(record)
        if check.fault:
            break
    return check.report()


class SealCheck:
    """Compares the seals of a run with its records, which are added one by one in order.

    A check of a part of the run is given the `seq` and the seal of the record before it.
    """

    def __init__(self, run_id: str, *, after_seq: int = -1, after_seal: str | None = None) -> None:
        self.fault = ""
        self.has_seals = False
        """Whether any record that was added carries a seal."""
        self._run_id = run_id
        self._chain = SealChain(run_id, after_seal=after_seal)
        self._events = after_seq + 1
        self._unsealed = self._turns = 0
        self._last_turn: int | None = None
        self._points: list[SealPoint] = []
        self._bad_turn: int | None = None
        self._ended = False

    def add(self, record: Record) -> None:
        """Check the next record; after the first fault, records are not checked any more."""
        self.has_seals = self.has_seals or record.seal is not None
        if self.fault:
            return
        self.fault = _fault_of(record, self._events, self._chain)
        if self._ended and record.kind != RunResumed.__name__:
            self.fault = f"event {record.seq}, {record.kind}, comes after the end of the run"
        if self.fault:
            self._bad_turn = record.turn
            return
        self._chain.add(record)
        self._ended = record.kind in _ENDING_KINDS
        self._events, self._unsealed = self._events + 1, self._unsealed + 1
        if record.seal is not None:
            self._unsealed = 0
            if record.kind == TurnFinished.__name__:
                self._turns, self._last_turn = self._turns + 1, record.turn
            self._points.append(
                SealPoint(
                    seal=record.seal,
                    events=self._events,
                    turns=self._turns,
                    last_turn=self._last_turn,
                )
            )

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
            points=tuple(self._points),
        )


def _fault_of(record: Record, due: int, chain: SealChain) -> str:
    if record.seq != due:
        return f"event {record.seq} comes where {due} is due: an event is missing"
    try:
        seal = chain.seal_of(record)
    except (struct.error, OverflowError, KeyError, TypeError, ValueError) as error:
        return f"event {record.seq} has values that no recorder writes: {error}"
    if record.seal is None:
        if record.kind not in SEALED_KINDS:
            return ""
        return f"event {due}, {record.kind}, has no seal"
    if record.seal != seal:
        return f"the seal at event {due} is not that of the events before it"
    return ""
