"""A run read while another process records it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tokentape.recorder import Envelope, Record, Recording
from tokentape.recorder.codec import decode
from tokentape.recorder.events import (
    RunFailed,
    RunFinished,
    TokenSampled,
    TurnFinished,
    TurnStarted,
)
from tokentape.store.source import Selection, Source

# A look that finds more turns than that has their texts from the ends of the turns.
_TURNS_AHEAD = 3


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token of a turn that was under way when it was looked at."""

    seq: int
    turn: int
    token_id: int


class RunFollower:
    """Looks at a run again and again. A look is a few reads, and no lock is held between them."""

    def __init__(self, source: Source, recording: Recording) -> None:
        self.ended = False
        self._source = source
        self._recording = recording
        self._seq = -1
        self._token_seq = -1
        self._turn = 0

    def look(self) -> list[Envelope | NewToken]:
        """What was recorded since the last look, in order.

        Tokens are read before events: every event that came before one of them is there, then.
        """
        if self._seq < 0:
            return self._first_look()
        tokens = self._new_tokens()
        events = self._new_events()
        self._note(events)
        return sorted([*tokens, *events], key=lambda each: each.seq)

    def _first_look(self) -> list[Envelope | NewToken]:
        """Everything, but of tokens only those that no text stands for yet."""
        found: list[Envelope | NewToken] = []
        for envelope in self._recording.events():
            event = envelope.event
            if isinstance(event, TokenSampled):
                found.append(NewToken(envelope.seq, event.turn, event.token_id))
                self._token_seq = self._seq_of(envelope, self._token_seq)
                continue
            if isinstance(event, TurnStarted | TurnFinished):
                found = [each for each in found if isinstance(each, Envelope)]
            found.append(envelope)
            self._note([envelope])
        self._token_seq = max(self._token_seq, self._seq)
        return found

    def _seq_of(self, envelope: Envelope, before: int) -> int:
        """How far the run's own events are known: a fork has those of its parent, too."""
        return envelope.seq if envelope.run_id == self._recording.run_id else before

    def _note(self, events: Iterable[Envelope]) -> None:
        for envelope in events:
            self._seq = self._seq_of(envelope, self._seq)
            self._turn = max(self._turn, envelope.turn or 0)
            self.ended = isinstance(envelope.event, RunFinished | RunFailed)

    def _new_events(self) -> list[Envelope]:
        run_id = self._recording.run_id
        rows = _rows_behind(self._source.events_table(Selection(run_ids=(run_id,))), self._seq)
        return [
            decode(
                run_id,
                Record(
                    seq=row["seq"],
                    at_us=row["at"],
                    kind=row["kind"],
                    version=row["version"],
                    body=row["body"],
                    turn=row["turn"],
                    seal=row["seal"],
                ),
            )
            for row in rows
        ]

    def _new_tokens(self) -> list[NewToken]:
        selection = Selection(
            run_ids=(self._recording.run_id,),
            turns=tuple(range(self._turn, self._turn + _TURNS_AHEAD)),
            columns=("turn", "token_id"),
        )
        rows = _rows_behind(self._source.tokens_table(selection), self._token_seq)
        new = [NewToken(row["seq"], row["turn"], row["token_id"]) for row in rows]
        self._token_seq = new[-1].seq if new else self._token_seq
        return new


def _rows_behind(table: pa.Table, seq: int) -> list[dict[str, Any]]:
    new = table.filter(pc.greater(table["seq"], seq))
    at = new.column_names.index("at")
    rows: list[dict[str, Any]] = new.set_column(at, "at", new["at"].cast(pa.int64())).to_pylist()
    return rows
