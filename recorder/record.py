"""An event in its stored form, and the choice of some events of a run."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """An event as a store holds it: its place in the run, and a body that is not decoded.

    `seq`, `at_us`, `turn` and `seal` are as in `Envelope`.
    """

    seq: int
    at_us: int
    kind: str
    """The name of the event's class."""
    version: int
    """The version of the class that wrote the event; it may be older than today's."""
    body: str | Mapping[str, Any]
    """The event's fields as canonical JSON; for a `TokenSampled`, a mapping of its fields."""
    turn: int | None = None
    seal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilter:
    """The records of a run to read; a field that is None excludes nothing."""

    kinds: frozenset[str] | None = None
    first_turn: int | None = None
    """Records of earlier turns are excluded; those that belong to no turn are not."""
    last_turn: int | None = None
    """Records of later turns are excluded; those that belong to no turn are not."""
    after_seq: int = -1
    """Only records with a greater `seq`."""
    last_seq: int | None = None
    """Only records up to this `seq`."""
    newest: int | None = None
    """Only the last so many of the records that all other fields select."""

    def has_kind(self, kind: str) -> bool:
        """Return whether records of a kind are selected."""
        return self.kinds is None or kind in self.kinds

    def selects(self, record: Record) -> bool:
        """Return whether a record is selected, except for `newest`."""
        return (
            self.has_kind(record.kind)
            and record.seq > self.after_seq
            and (self.last_seq is None or record.seq <= self.last_seq)
            and (record.turn is None or self.first_turn is None or record.turn >= self.first_turn)
            and (record.turn is None or self.last_turn is None or record.turn <= self.last_turn)
        )

    def of(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the selected records among those of a whole run, in order."""
        due = takewhile(lambda each: self.last_seq is None or each.seq <= self.last_seq, records)
        selected = (each for each in due if self.selects(each))
        if self.newest is None:
            yield from selected
        elif self.newest > 0:
            yield from deque(selected, maxlen=self.newest)


@dataclass(frozen=True, slots=True)
class SampledIds:
    """The sampled tokens in a stretch of a run, without their numbers."""

    seqs: Sequence[int]
    """Ascending."""
    token_ids: Sequence[int]

    def between(self, after_seq: int, last_seq: int) -> tuple[int, ...]:
        """Return the ids of the tokens after one `seq` and up to another."""
        first, end = bisect_right(self.seqs, after_seq), bisect_right(self.seqs, last_seq)
        return tuple(self.token_ids[first:end])
