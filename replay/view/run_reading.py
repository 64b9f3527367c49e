"""Reading a run for its document, with its tokens as columns where the store has such."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import cast, overload

import numpy as np
import pyarrow as pa

from tokentape.recorder import Envelope, Record, Recording, RecordingError
from tokentape.recorder.codec import decode
from tokentape.recorder.events import EVENT_CLASSES, TOKEN_KIND, BelongsTo, RunStarted
from tokentape.recorder.projections import iterate_turns
from tokentape.recorder.projections.prompt_stream import IdPiece, known_ids
from tokentape.recorder.record import RecordFilter
from tokentape.replay.recorded.loaded_run import LoadedRun, load_run
from tokentape.replay.view.sampled_tokens import SampledTokens
from tokentape.store.errors import StoreError

_OTHER_KINDS = frozenset(EVENT_CLASSES) - {TOKEN_KIND}


@dataclass(frozen=True, slots=True)
class ReadRun:
    """A run in memory."""

    run: LoadedRun
    last_seq: int
    """The number of the last event that the run itself recorded."""
    last_at_us: int
    """The time of that event."""
    tokens: pa.Table | None
    """The columns of all tokens in the order of `run.turns`, whose tokens have only their places
    and ids then; None if these have all numbers."""


def read_run(recording: Recording) -> ReadRun:
    """Read a run. Raise RecordingError if events are damaged or contradict each other."""
    try:
        found = _read_columns(recording)
    except (RecordingError, StoreError, pa.ArrowException):
        # Read as events, the fault has a place.
        found = None
    return found or _read_events(recording)


def _read_events(recording: Recording) -> ReadRun:
    last: list[Record] = []

    def records() -> Iterator[Record]:
        for record in recording.records():
            last[:] = [record]
            yield record

    run = load_run(replace(recording, read=records))
    return ReadRun(run, last[0].seq, last[0].at_us, None)


def _read_columns(recording: Recording) -> ReadRun | None:
    """Return the run; None if its tokens cannot be read as columns, or an event is missing."""
    stretches: list[_Stretch] = []
    read: dict[str, SampledTokens] = {}
    for run, after_seq, last_seq in recording.stretches():
        # The events first: of a run that is being recorded, further tokens may come meanwhile.
        events = list(_events_of(run, after_seq, last_seq))
        sampled = read.get(run.run_id) or SampledTokens.read(run)
        if sampled is None:
            return None
        read[run.run_id] = sampled
        within = _gapless(events, sampled.between(after_seq, last_seq), after_seq, last_seq)
        if within is None:
            return None
        if run is not recording:
            events = [each for each in events if _is_shared(each)]
        stretches.append(_Stretch(events, within))
    return _built(recording, stretches)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Consecutive events of one run."""

    events: list[Envelope]
    """All but the tokens."""
    tokens: SampledTokens

    def merged(self) -> Iterator[Envelope]:
        """Yield events and tokens in order."""
        tokens = list(self.tokens.envelopes())
        ends = np.searchsorted(self.tokens.seqs, [each.seq for each in self.events])
        begin = 0
        for event, end in zip(self.events, ends.tolist(), strict=True):
            yield from tokens[begin:end]
            yield event
            begin = end
        yield from tokens[begin:]


def _events_of(run: Recording, after_seq: int, last_seq: int | None) -> Iterator[Envelope]:
    chosen = RecordFilter(kinds=_OTHER_KINDS, after_seq=after_seq, last_seq=last_seq)
    return (decode(run.run_id, record) for record in run.selected(chosen))


def _is_shared(envelope: Envelope) -> bool:
    return envelope.event.traits.belongs_to is not BelongsTo.RUN


def _gapless(
    events: Sequence[Envelope], tokens: SampledTokens, after_seq: int, last_seq: int | None
) -> SampledTokens | None:
    """Return the tokens that follow the events without a gap; None if an event is missing."""
    own = np.array([each.seq for each in events], np.int64)
    found = np.sort(np.concatenate((own, tokens.seqs)))
    is_due = found == np.arange(after_seq + 1, after_seq + 1 + len(found))
    end = after_seq + (len(found) if is_due.all() else int(np.argmin(is_due)))
    if end < (own.max(initial=after_seq) if last_seq is None else last_seq):
        return None
    return tokens.between(after_seq, end)


def _built(recording: Recording, stretches: Sequence[_Stretch]) -> ReadRun | None:
    """Return the run that stretches make up; None if it did not start."""
    events = [event for each in stretches for event in each.events]
    own = [each for each in events if each.run_id == recording.run_id]
    started = own[0].event if own else None
    if not isinstance(started, RunStarted):
        return None
    table = pa.concat_tables([each.tokens.table for each in stretches])
    merged = chain.from_iterable(each.merged() for each in stretches)
    rounds = tuple(iterate_turns(merged, read_ids=_prompt_ids))
    if sum(len(each.tokens) for each in rounds) != len(table):
        return None
    run = LoadedRun(
        recording=recording, started=started, turns=rounds, envelopes=tuple(events), seals=None
    )
    last_seq, last_at_us = own[-1].seq, own[-1].at_us
    newest = stretches[-1].tokens
    if len(newest.seqs) and newest.seqs[-1] > last_seq:
        last_seq, last_at_us = int(newest.seqs[-1]), newest.table["at"][-1].value
    return ReadRun(run, last_seq, last_at_us, table)


def _prompt_ids(pieces: Sequence[IdPiece]) -> tuple[int, ...]:
    """Return the ids of a prompt without copying them."""
    return cast("tuple[int, ...]", _PromptIds(pieces))


class _PromptIds(Sequence[int]):
    """The ids of a prompt in pieces: a long run has many long prompts that share their pieces."""

    def __init__(self, pieces: Sequence[IdPiece]) -> None:
        self._pieces = pieces
        self._length = sum(map(len, pieces))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._pieces)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        return known_ids(self._pieces)[index]
