"""Turns, rebuilt from events alone: no model, no tokenizer."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tokentape.recorder.envelope import Envelope
from tokentape.recorder.errors import RecordingError
from tokentape.recorder.events import (
    CacheDecided,
    Event,
    HistoryPruned,
    InterventionApplied,
    InterventionRemoved,
    MessageAdded,
    PrefillCompleted,
    RunResumed,
    SystemPromptCached,
    TokenSampled,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.projections.open_round import OpenRound
from tokentape.recorder.projections.prompt_stream import PromptStream
from tokentape.recorder.projections.turn import Turn


def iterate_turns(envelopes: Iterable[Envelope]) -> Iterator[Turn]:
    """Yield every round of every turn in order; the last one may be unfinished.

    Raise RecordingError if the events contradict each other.
    """
    rebuilding = _Rebuilding()
    for envelope in envelopes:
        turn = rebuilding.add(envelope.event, envelope.seq)
        if turn is not None:
            yield turn
    turn = rebuilding.cut_off()
    if turn is not None:
        yield turn


def join_rounds(rounds: Iterable[Turn]) -> list[Turn]:
    """Return one turn for all rounds of each turn.

    It has the prompt of the first round, the messages and tokens of all, and the text of the reply
    without the tool results in between.
    """
    turns: list[Turn] = []
    for each in rounds:
        if each.first_step and turns and turns[-1].number == each.number:
            turns[-1] = _joined(turns[-1], each)
        else:
            turns.append(each)
    return turns


def _joined(turn: Turn, further: Turn) -> Turn:
    finished = further.finished
    if finished is not None and turn.finished is not None:
        finished = replace(
            finished,
            text=turn.finished.text + finished.text,
            generated_tokens=turn.finished.generated_tokens + finished.generated_tokens,
            duration_us=turn.finished.duration_us + finished.duration_us,
        )
    return replace(
        turn,
        messages=(*turn.messages, *further.messages),
        tokens=(*turn.tokens, *further.tokens),
        finished=finished,
    )


_OF_A_ROUND = (
    CacheDecided,
    InterventionApplied,
    InterventionRemoved,
    PrefillCompleted,
    TokenSampled,
    TurnFinished,
)


class _Rebuilding:
    """Rebuilds the rounds of a run from its events, in order."""

    def __init__(self) -> None:
        self._stream = PromptStream()
        # Messages after this state are void if the run is resumed before a turn began with them.
        self._committed = self._stream.state
        self._messages: list[MessageAdded] = []
        self._pruned: HistoryPruned | None = None
        self._open: OpenRound | None = None

    def add(self, event: Event, seq: int) -> Turn | None:
        """Add the next event. Return the round that it ends, if any."""
        if isinstance(event, SystemPromptCached):
            self._stream.restart(event)
            self._committed = self._stream.state
        elif isinstance(event, HistoryPruned):
            self._stream.prune(event)
            self._pruned = event
        elif isinstance(event, MessageAdded):
            self._messages.append(event)
            self._stream.extend(event.ids, event.text)
        elif isinstance(event, RunResumed):
            return self._resume(event)
        elif isinstance(event, TurnStarted):
            return self._start(event)
        elif isinstance(event, _OF_A_ROUND):
            if self._open is None or event.turn != self._open.started.turn:
                raise RecordingError(
                    f"event {seq} belongs to turn {event.turn}, which is not in progress"
                )
            return self._add_to_round(event, self._open)
        return None

    def cut_off(self) -> Turn | None:
        """Return the open round without an end, if any."""
        cut_off = None if self._open is None else self._open.close(None)
        self._open = None
        return cut_off

    def _resume(self, event: RunResumed) -> Turn | None:
        self._stream.restore(self._committed)
        self._messages, self._pruned = [], None
        if self._open is None and event.turn is not None:
            raise RecordingError(
                f"the run is resumed in turn {event.turn}, which is not in progress: events are "
                "missing or altered"
            )
        if self._open is None or self._open.continues(event):
            return None
        cut_off = self.cut_off()
        self._stream.abandon_reply()
        self._committed = self._stream.state
        return cut_off

    def _start(self, event: TurnStarted) -> Turn | None:
        cut_off = self.cut_off()
        self._stream.start_turn(event)
        self._committed = self._stream.state
        self._open = OpenRound(event, self._committed, tuple(self._messages), self._pruned)
        self._messages, self._pruned = [], None
        return cut_off

    def _add_to_round(
        self,
        event: CacheDecided
        | InterventionApplied
        | InterventionRemoved
        | PrefillCompleted
        | TokenSampled
        | TurnFinished,
        open_round: OpenRound,
    ) -> Turn | None:
        if isinstance(event, InterventionApplied | InterventionRemoved):
            self._stream.intervene(event)
            open_round.active = self._stream.active
            self._committed = self._stream.state
            return None
        if not isinstance(event, TurnFinished):
            open_round.add(event)
            return None
        turn = open_round.close(event)
        self._stream.extend(turn.reply_ids, event.text + event.stop_text)
        self._committed = self._stream.state
        self._open = None
        return turn
