"""The turns of a run as the page shows them, with the rounds of each turn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tokentape.recorder.events import StopReason
from tokentape.recorder.projections import Turn, join_continued
from tokentape.replay.run_diff.run_outline import ToolExchange
from tokentape.replay.view.round_events import RoundEvents


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewedRound:
    """A round, with the tokens that a fork at a token shares joined to its own."""

    turn: Turn
    pieces: tuple[Turn, ...]
    """The round in the runs that recorded parts of it: of most rounds `turn` alone."""
    events: RoundEvents
    """Those of the first run that recorded it."""
    exchanges: tuple[ToolExchange, ...]
    run_id: str
    """The run that recorded the end of it."""
    first_token: int
    """The row of its first token in the columns."""
    shared_tokens: int
    """How many of its tokens ancestors recorded."""

    @property
    def end_token(self) -> int:
        """The row after its last token."""
        return self.first_token + len(self.turn.tokens)


@dataclass(frozen=True, slots=True)
class ViewedTurn:
    """A turn: one round, or several where the model called tools."""

    rounds: list[ViewedRound] = field(default_factory=list)

    @property
    def number(self) -> int:
        return self.rounds[0].turn.number

    @property
    def first_token(self) -> int:
        return self.rounds[0].first_token

    @property
    def end_token(self) -> int:
        return self.rounds[-1].end_token

    @property
    def has_finished(self) -> bool:
        """Whether the last round ended, and not with a tool call that a round must follow."""
        finished = self.rounds[-1].turn.finished
        return finished is not None and finished.stop_reason != StopReason.TOOL_CALL


def viewed_turns(
    run_id: str, rounds: Sequence[Turn], events: Sequence[RoundEvents]
) -> list[ViewedTurn]:
    """Return the turns of a run in order, from its rounds and the events of each.

    A turn that was cut off and begun again is there twice.
    """
    turns: list[ViewedTurn] = []
    first_token = 0
    for pieces in _joined_pieces(list(zip(rounds, events, strict=True))):
        joined, found = zip(*pieces, strict=True)
        turn = next(join_continued(joined)) if len(joined) > 1 else joined[0]
        viewed = ViewedRound(
            turn=turn,
            pieces=joined,
            events=found[0],
            exchanges=tuple(call for each in found for call in each.exchanges),
            run_id=found[-1].run_id,
            first_token=first_token,
            shared_tokens=sum(len(each.tokens) for each, of in pieces if of.run_id != run_id),
        )
        first_token = viewed.end_token
        if turn.first_step and turns and turns[-1].number == turn.number:
            turns[-1].rounds.append(viewed)
        else:
            turns.append(ViewedTurn([viewed]))
    return turns


Piece = tuple[Turn, RoundEvents]


def _joined_pieces(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Yield the rounds, each with its continuations in forks at a token."""
    group: list[Piece] = []
    for piece in pieces:
        turn = piece[0]
        if group:
            before = group[-1][0]
            is_open = before.finished is None and before.number == turn.number
            if not (is_open and turn.continued_tokens):
                yield group
                group = []
        group.append(piece)
    if group:
        yield group
