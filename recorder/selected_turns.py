"""Single turns of a run, rebuilt from no more events than they need."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from tokentape.recorder.envelope import Envelope
from tokentape.recorder.errors import RecordingError
from tokentape.recorder.events import (
    EVENT_CLASSES,
    HistoryPruned,
    InterventionApplied,
    InterventionRemoved,
    MessageAdded,
    RunForked,
    RunResumed,
    RunStarted,
    StopReason,
    SystemPromptCached,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.projections.prompt_stream import (
    IdPiece,
    StreamState,
    UnreadReply,
    begins_with,
)
from tokentape.recorder.projections.turn import Turn
from tokentape.recorder.projections.turns import TurnBuilder
from tokentape.recorder.record import RecordFilter
from tokentape.recorder.recording import Recording

HISTORY_KINDS = frozenset(
    cls.__name__
    for cls in (
        RunStarted,
        RunForked,
        RunResumed,
        SystemPromptCached,
        HistoryPruned,
        MessageAdded,
        TurnStarted,
        TurnFinished,
        InterventionApplied,
        InterventionRemoved,
    )
) | frozenset(kind for kind, cls in EVENT_CLASSES.items() if cls.traits.sealed)
"""The kinds that prompts are built from, and those that carry seals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Consecutive events of one run that are read completely."""

    run_id: str
    after_seq: int
    """The `seq` of the last seal before it; -1 if none is there."""
    last_seq: int | None
    """None for the rest of a turn that has not finished."""
    last_turn: int
    after_seal: str | None
    """The seal at `after_seq`."""

    @property
    def chosen(self) -> RecordFilter:
        """The filter that selects its records."""
        if self.last_seq is not None:
            return RecordFilter(after_seq=self.after_seq, last_seq=self.last_seq)
        return RecordFilter(after_seq=self.after_seq, last_turn=self.last_turn)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedEvents:
    """The events that some turns of a run are rebuilt from."""

    recording: Recording
    turns: frozenset[int]
    envelopes: tuple[Envelope, ...]
    """All events of the turns, and those of earlier turns that make prompts, in order."""
    stretches: tuple[Stretch, ...]
    """Where all events were read."""

    @classmethod
    def read(
        cls,
        recording: Recording,
        turns: Collection[int],
        *,
        more_kinds: Iterable[str] = (),
    ) -> "SelectedEvents":
        """Read what the turns need, and all earlier events of `more_kinds`."""
        chosen = RecordFilter(
            kinds=HISTORY_KINDS | frozenset(more_kinds), last_turn=max(turns, default=0)
        )
        history = list(recording.selected_events(chosen))
        stretches = _joined(_stretches_of(turns, history))
        found = {(each.run_id, each.seq): each for each in history}
        for stretch in stretches:
            for each in recording.selected_events(stretch.chosen, of_run=stretch.run_id):
                found[each.run_id, each.seq] = each
        others = (each.run_id for each in history if each.run_id != recording.run_id)
        runs = [*dict.fromkeys(others), recording.run_id]
        places = {run_id: place for place, run_id in enumerate(runs)}

        def place(envelope: Envelope) -> tuple[int, int]:
            # A fork begins with two events of its own; those that it shares follow.
            begins = isinstance(envelope.event, RunStarted | RunForked)
            return (-1 if begins else places[envelope.run_id], envelope.seq)

        return cls(
            recording=recording,
            turns=frozenset(turns),
            envelopes=tuple(sorted(found.values(), key=place)),
            stretches=tuple(stretches),
        )

    @property
    def turns_found(self) -> frozenset[int]:
        """Those of the turns that the run has."""
        events = (each.event for each in self.envelopes)
        begun = {event.turn for event in events if isinstance(event, TurnStarted)}
        return self.turns & begun

    def rebuilt(self) -> Iterator["SelectedTurn"]:
        """Yield every round of the turns, in order. Raise RecordingError as `iterate_turns`."""
        reader = _IdReader(self.recording)
        builder = TurnBuilder(self.turns, reader.read)
        for envelope in self.envelopes:
            count = len(builder.prompts)
            turn = builder.add(envelope)
            if turn is not None:
                # A round that the next one cuts off ends when that one's prompt is there.
                yield SelectedTurn(turn, tuple(builder.prompts[:count]), reader)
        turn = builder.cut_off()
        if turn is not None:
            yield SelectedTurn(turn, tuple(builder.prompts), reader)


@dataclass(frozen=True, slots=True)
class SelectedTurn:
    """A round of a turn, and the prompts of all rounds up to it."""

    turn: Turn
    _prompts: Sequence[tuple[TurnStarted, StreamState]]
    _reader: "_IdReader"

    def seams(self) -> Iterator[tuple[int, int]]:
        """Yield where an earlier prompt that this one begins with was complete, and began to grow.

        Each seam is a number of tokens and the number of characters that they are.
        """
        for started, state in self._prompts[:-1]:
            if self._begins_with(state):
                yield state.ids.length, state.text.length
                yield started.kept_tokens, started.kept_chars

    def _begins_with(self, earlier: StreamState) -> bool:
        ids, text = earlier.ids.items, earlier.text.items
        _, prompt = self._prompts[-1]
        if ids == prompt.ids.items[: len(ids)] and text == prompt.text.items[: len(text)]:
            return True
        # The text first: its pieces are in memory, and ids may have to be read.
        if not begins_with(self.turn.prompt_text, text):
            return False
        index = 0
        for piece in ids:
            if self.turn.prompt_ids[index : index + len(piece)] != self._reader.read([piece]):
                return False
            index += len(piece)
        return True


def read_turns(recording: Recording, turns: Collection[int]) -> Iterator[SelectedTurn]:
    """Yield every round of some turns of a run, in order.

    Read their events and, of earlier turns, messages, the ends of turns, and the ids of those
    tokens that the prompts contain. Raise RecordingError if these events contradict each other.
    """
    return SelectedEvents.read(recording, turns).rebuilt()


def turn_numbers(recording: Recording) -> list[int]:
    """Return the numbers of the turns that began, in order."""
    chosen = RecordFilter(kinds=frozenset((TurnStarted.__name__,)))
    events = (each.event for each in recording.selected_events(chosen))
    return list(dict.fromkeys(each.turn for each in events if isinstance(each, TurnStarted)))


def _stretches_of(turns: Collection[int], history: Sequence[Envelope]) -> Iterator[Stretch]:
    """Yield the stretch of each turn in order, from the last seal before it.

    A turn that a fork at a token shares in part has one in each of the runs.
    """
    ends: dict[str, Envelope] = {}
    begun: dict[tuple[int, str], Envelope | None] = {}
    last: dict[tuple[int, str], Envelope] = {}
    for each in history:
        event = each.event
        if isinstance(event, TurnStarted | TurnFinished) and event.turn in turns:
            begun.setdefault((event.turn, each.run_id), ends.get(each.run_id))
            last[event.turn, each.run_id] = each
        if each.seal is not None or isinstance(event, TurnFinished):
            ends[each.run_id] = each
    # A stable sort: within a turn the runs stay in the order of the history.
    for turn, run_id in sorted(begun, key=lambda key: key[0]):
        before, end = begun[turn, run_id], last[turn, run_id]
        event = end.event
        ended = isinstance(event, TurnFinished) and event.stop_reason != StopReason.TOOL_CALL
        yield Stretch(
            run_id=run_id,
            after_seq=-1 if before is None else before.seq,
            last_seq=end.seq if ended else None,
            last_turn=turn,
            after_seal=None if before is None else before.seal,
        )


def _joined(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Return the stretches with adjacent ones joined."""
    joined: list[Stretch] = []
    for each in stretches:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.run_id == each.run_id
            and last.last_seq is not None
            and each.after_seq <= last.last_seq
        ):
            joined[-1] = replace(last, last_seq=each.last_seq, last_turn=each.last_turn)
        else:
            joined.append(each)
    return joined


# Unread replies with fewer events in between are read together.
_GAP_EVENTS = 1000


class _IdReader:
    """Reads the ids of sampled tokens and holds them by reply."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._replies: dict[tuple[str, int], tuple[int, ...]] = {}

    def read(self, pieces: Sequence[IdPiece]) -> tuple[int, ...]:
        """Return the ids of pieces. Raise RecordingError if a reply lacks tokens."""
        unread = [each for each in pieces if isinstance(each, UnreadReply)]
        missing = [each for each in unread if (each.run_id, each.after_seq) not in self._replies]
        for group in _near(missing):
            self._read_replies(group)
        return tuple(chain.from_iterable(self._ids_of(each) for each in pieces))

    def _ids_of(self, piece: IdPiece) -> tuple[int, ...]:
        if not isinstance(piece, UnreadReply):
            return piece
        return self._replies[piece.run_id, piece.after_seq][piece.start : piece.end]

    def _read_replies(self, replies: Sequence[UnreadReply]) -> None:
        runs = (self._recording, *self._recording.lineage())
        run = next(each for each in runs if each.run_id == replies[0].run_id)
        found = run.sampled_ids(replies[0].after_seq, replies[-1].last_seq)
        for reply in replies:
            ids = found.between(reply.after_seq, reply.last_seq)
            if len(ids) != reply.tokens:
                raise RecordingError(
                    f"run {run.run_id} has {len(ids)} tokens between events {reply.after_seq} and "
                    f"{reply.last_seq}, where {reply.tokens} were recorded"
                )
            self._replies[reply.run_id, reply.after_seq] = ids


def _near(replies: Iterable[UnreadReply]) -> Iterator[list[UnreadReply]]:
    """Yield the replies, ordered, in groups that are read at once."""
    group: list[UnreadReply] = []
    for each in sorted(replies, key=lambda each: (each.run_id, each.after_seq)):
        if group and (
            group[-1].run_id != each.run_id or each.after_seq > group[-1].last_seq + _GAP_EVENTS
        ):
            yield group
            group = []
        group.append(each)
    if group:
        yield group
