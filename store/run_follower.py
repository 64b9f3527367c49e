"""Follow a run while another process records it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tokentape.recorder import Envelope, Record, Recording
from tokentape.recorder.codec import decode
from tokentape.recorder.events import (
    EVENT_CLASSES,
    TOKEN_KIND,
    RunFailed,
    RunFinished,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.record import RecordFilter
from tokentape.store.source import Selection, Source

# When more turns than these are new, the text of the earlier ones comes with `TurnFinished`.
_TURNS_AHEAD = 3
_KINDS = frozenset(EVENT_CLASSES) - {TOKEN_KIND}
_ENDS_OF_ROUNDS = (TurnStarted, TurnFinished)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A sampled token of a turn whose text was not recorded yet."""

    seq: int
    turn: int
    token_id: int
    logprob: float | None = None
    duration_us: int = 0


_COLUMNS = ("turn", "token_id", "logprob", "duration_us")


class RunFollower:
    """A reader that returns the new part of a run each time it polls the store.

    A poll is a few short reads; no lock is held between polls. With `last_turns`, events of turns
    before the newest so many are not read; the events that belong to no turn are.
    """

    def __init__(self, source: Source, recording: Recording, *, last_turns: int = 0) -> None:
        self.ended = False
        """Whether the last event says that the run finished or failed."""
        self._source = source
        self._recording = recording
        self._last_turns = last_turns
        self._seq = -1
        self._token_seq = -1
        self._turn = 0

    def poll(self) -> list[Envelope | NewToken]:
        """Return the events and tokens recorded since the last poll, in order.

        The first poll returns all events of the turns, and only the tokens of a turn that has not
        finished.
        """
        if self._seq < 0:
            return self._first_poll()
        # Tokens first: then every event recorded before one of them is read, too.
        tokens = self._new_tokens()
        events = self._new_events()
        self._note(events)
        return sorted([*tokens, *events], key=lambda each: each.seq)

    def _first_poll(self) -> list[Envelope | NewToken]:
        recording, first_turn = self._recording, None
        if self._last_turns:
            first_turn = recording.newest_turn() - self._last_turns + 1
        chosen = RecordFilter(kinds=_KINDS, first_turn=first_turn)
        events = list(recording.selected_events(chosen))
        self._note(events)
        self._token_seq = self._seq
        ends = (each for each in reversed(events) if isinstance(each.event, _ENDS_OF_ROUNDS))
        last = next(ends, None)
        if last is None or last.run_id != recording.run_id:
            return list(events)
        if not isinstance(last.event, TurnStarted):
            return list(events)
        begun = events.index(last) + 1
        later: list[Envelope | NewToken] = list(events[begun:])
        later += self._open_tokens(last.seq)
        return [*events[:begun], *sorted(later, key=lambda each: each.seq)]

    def _open_tokens(self, after_seq: int) -> list[NewToken]:
        """Return the tokens of a round that has not finished, as far as its events are known."""
        run_id = self._recording.run_id
        selection = Selection(run_ids=(run_id,), after_seq=after_seq, columns=_COLUMNS)
        tokens: list[NewToken] = []
        for token in _tokens(self._source.tokens_table(selection)):
            # After a gap comes an event that was recorded since: the next poll reads it first.
            if token.seq > self._token_seq + 1:
                break
            self._token_seq = max(self._token_seq, token.seq)
            tokens.append(token)
        return tokens

    def _own_seq(self, envelope: Envelope, default: int) -> int:
        """Return the `seq` of an event of this run; the default for one that a fork shares."""
        return envelope.seq if envelope.run_id == self._recording.run_id else default

    def _note(self, events: Iterable[Envelope]) -> None:
        for envelope in events:
            self._seq = self._own_seq(envelope, self._seq)
            self._turn = max(self._turn, envelope.turn or 0)
            self.ended = isinstance(envelope.event, RunFinished | RunFailed)

    def _new_events(self) -> list[Envelope]:
        run_id = self._recording.run_id
        table = self._source.events_table(Selection(run_ids=(run_id,), after_seq=self._seq))
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
            for row in _rows(table)
        ]

    def _new_tokens(self) -> list[NewToken]:
        selection = Selection(
            run_ids=(self._recording.run_id,),
            turns=tuple(range(self._turn, self._turn + _TURNS_AHEAD)),
            after_seq=self._token_seq,
            columns=_COLUMNS,
        )
        new = _tokens(self._source.tokens_table(selection))
        self._token_seq = new[-1].seq if new else self._token_seq
        return new


def _tokens(table: pa.Table) -> list[NewToken]:
    return [
        NewToken(row["seq"], row["turn"], row["token_id"], row["logprob"], row["duration_us"])
        for row in _rows(table)
    ]


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows with `at` as microseconds since 1970."""
    at = table.column_names.index("at")
    rows: list[dict[str, Any]] = table.set_column(
        at, "at", table["at"].cast(pa.int64())
    ).to_pylist()
    return rows
