"""Turns, rebuilt from events alone: no model, no tokenizer."""

import typing
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace

from tokentape.recorder.envelope import Envelope
from tokentape.recorder.errors import RecordingError
from tokentape.recorder.events import (
    CacheDecided,
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
from tokentape.recorder.projections.prompt_stream import (
    IdPiece,
    PromptStream,
    ReadIds,
    StreamState,
    UnreadReply,
    known_ids,
)
from tokentape.recorder.projections.turn import Turn


def iterate_turns(
    envelopes: Iterable[Envelope], *, read_ids: ReadIds = known_ids
) -> Iterator[Turn]:
    """Yield every round of every turn in order; the last one may be unfinished.

    `read_ids` returns the ids of a prompt from its pieces. Raise RecordingError if the events
    contradict each other.
    """
    builder = TurnBuilder(read_ids=read_ids)
    for envelope in envelopes:
        turn = builder.add(envelope)
        # These prompts are only for readers of single turns.
        builder.prompts.clear()
        if turn is not None:
            yield turn
    turn = builder.cut_off()
    if turn is not None:
        yield turn


def join_continued(rounds: Iterable[Turn]) -> Iterator[Turn]:
    """Yield every round whole: one that a fork at a token continues is joined to its continuation.

    The joined round has the prompt of the first one, the settings of the last, and the tokens and
    the text of all.
    """
    cut_off: Turn | None = None
    for each in rounds:
        if cut_off is not None and cut_off.number == each.number:
            each = _continued(cut_off, each)
        elif cut_off is not None:
            yield cut_off
        cut_off = each if each.finished is None else None
        if cut_off is None:
            yield each
    if cut_off is not None:
        yield cut_off


def _continued(begun: Turn, rest: Turn) -> Turn:
    finished = rest.finished
    tokens = (*begun.tokens, *rest.tokens)
    continued_text = rest.prompt_text[len(begun.prompt_text) :]
    if finished is not None:
        text = continued_text + finished.text
        finished = replace(finished, text=text, generated_tokens=len(tokens))
    of_rest = ("seed", "sampling", "own_settings", "unreplayable")
    settings = {name: getattr(rest.started, name) for name in of_rest}
    return replace(
        begun,
        started=replace(begun.started, **settings),
        tokens=tokens,
        cache=begun.cache or rest.cache,
        prefill=begun.prefill or rest.prefill,
        finished=finished,
        active=rest.active,
        forced_steps=(*begun.forced_steps, *rest.forced_steps),
        continued_by=rest.started,
        continued_text=continued_text,
    )


def join_rounds(rounds: Iterable[Turn]) -> list[Turn]:
    """Return one turn for all rounds of each turn; see `iterate_joined`."""
    return list(iterate_joined(rounds))


def iterate_joined(rounds: Iterable[Turn]) -> Iterator[Turn]:
    """Yield one turn for all rounds of each turn.

    It has the prompt of the first round, the messages and tokens of all, and the text of the reply
    without the tool results in between.
    """
    turn: Turn | None = None
    for each in join_continued(rounds):
        if turn is not None and each.first_step and turn.number == each.number:
            turn = _joined(turn, each)
            continue
        if turn is not None:
            yield turn
        turn = each
    if turn is not None:
        yield turn


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
        active=further.active,
        forced_steps=(*turn.forced_steps, *further.forced_steps),
        rounds=(*(turn.rounds or (turn,)), further),
    )


_RoundEvent = (
    CacheDecided
    | InterventionApplied
    | InterventionRemoved
    | PrefillCompleted
    | TokenSampled
    | TurnFinished
)
_OF_A_ROUND = typing.get_args(_RoundEvent)


@dataclass(frozen=True, slots=True)
class UnreadRound:
    """A round that is not rebuilt: its tokens are not read, and it only extends the stream."""

    started: TurnStarted
    seq: int
    run_id: str

    def continues(self, event: RunResumed) -> bool:
        """Return whether the resumed run continues this round."""
        return event.turn is not None

    def reply(self, finished: TurnFinished, envelope: Envelope) -> UnreadReply:
        """Return the ids of the round's tokens, which end before its last event."""
        tokens = finished.generated_tokens
        return UnreadReply(self.run_id, self.seq, envelope.seq, tokens, 0, tokens)


class TurnBuilder:
    """Rebuilds rounds of a run from its events, which are added in order.

    `wanted` are the numbers of the turns to rebuild; None for all. Of other turns `TokenSampled`,
    `CacheDecided` and `PrefillCompleted` may be missing; `read_ids` then reads their tokens' ids.
    """

    def __init__(self, wanted: Container[int] | None = None, read_ids: ReadIds = known_ids) -> None:
        self.prompts: list[tuple[TurnStarted, StreamState]] = []
        """The prompt of every round so far, also of those that are not rebuilt."""
        self._wanted = wanted
        self._read_ids = read_ids
        self._stream = PromptStream()
        # Messages after this state are void if the run is resumed before a turn began with them.
        self._committed = self._stream.state
        self._messages: list[MessageAdded] = []
        self._pruned: HistoryPruned | None = None
        self._open: OpenRound | UnreadRound | None = None

    def add(self, envelope: Envelope) -> Turn | None:
        """Add the next event. Return the wanted round that it ends, if any."""
        event = envelope.event
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
            return self._start(event, envelope)
        elif isinstance(event, _OF_A_ROUND):
            if self._open is None or event.turn != self._open.started.turn:
                raise RecordingError(
                    f"event {envelope.seq} belongs to turn {event.turn}, which is not in progress"
                )
            return self._add_to_round(event, envelope, self._open)
        return None

    def cut_off(self) -> Turn | None:
        """Return the open round without an end, if it is wanted."""
        cut_off = self._open.close(None) if isinstance(self._open, OpenRound) else None
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

    def _start(self, event: TurnStarted, envelope: Envelope) -> Turn | None:
        before, cut_off = self._open, self.cut_off()
        continues = before is not None and before.started.turn == event.turn
        if continues and isinstance(before, OpenRound):
            before.check_continued_by(event)
        self._stream.start_turn(event, continues=continues)
        self._committed = self._stream.state
        self.prompts.append((event, self._committed))
        if self._wanted is None or event.turn in self._wanted:
            messages = tuple(self._messages)
            self._open = OpenRound(event, self._committed, messages, self._pruned, self._read_ids)
        else:
            self._open = UnreadRound(event, envelope.seq, envelope.run_id)
        self._messages, self._pruned = [], None
        return cut_off

    def _add_to_round(
        self, event: _RoundEvent, envelope: Envelope, open_round: OpenRound | UnreadRound
    ) -> Turn | None:
        if isinstance(event, InterventionApplied | InterventionRemoved):
            self._stream.intervene(event)
            if isinstance(open_round, OpenRound):
                open_round.active = self._stream.active
            self._committed = self._stream.state
            return None
        if not isinstance(event, TurnFinished):
            if isinstance(open_round, OpenRound):
                open_round.add(event)
            return None
        turn: Turn | None = None
        reply: IdPiece
        if isinstance(open_round, OpenRound):
            turn = open_round.close(event)
            reply = turn.reply_ids
        else:
            reply = open_round.reply(event, envelope)
        self._stream.extend(reply, event.text + event.stop_text)
        self._committed = self._stream.state
        self._open = None
        return turn
