"""The stream of a conversation: the ids and the text that the next prompt is built from."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, TypeVar, overload

from tokentape.recorder.errors import RecordingError
from tokentape.recorder.events import (
    HistoryPruned,
    InterventionApplied,
    InterventionRemoved,
    SystemPromptCached,
    TurnStarted,
)
from tokentape.recorder.projections.active_interventions import ActiveInterventions

P = TypeVar("P", bound=Sequence[Any])


@dataclass(frozen=True, slots=True)
class UnreadReply(Sequence[int]):
    """The ids of sampled tokens that have not been read from the store, or a part of them."""

    run_id: str
    after_seq: int
    """The `seq` of the `TurnStarted` before the tokens."""
    last_seq: int
    """The `seq` of the `TurnFinished` after them."""
    tokens: int
    """How many tokens are recorded in between."""
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> "UnreadReply": ...
    def __getitem__(self, index: int | slice) -> "int | UnreadReply":
        """Return a part. Raise TypeError for a single id, which is not known."""
        if isinstance(index, int):
            raise TypeError("the ids of an unread reply are not known")
        start, end, _ = index.indices(len(self))
        bounds = (self.start + start, self.start + max(start, end))
        return UnreadReply(self.run_id, self.after_seq, self.last_seq, self.tokens, *bounds)


IdPiece = tuple[int, ...] | UnreadReply
ReadIds = Callable[[Sequence[IdPiece]], tuple[int, ...]]
"""Returns the ids of pieces; it reads those that are unread."""


def known_ids(pieces: Sequence[IdPiece]) -> tuple[int, ...]:
    """Return the ids of pieces, none of which is unread."""
    return tuple(chain.from_iterable(pieces))


@dataclass(frozen=True, slots=True)
class Pieces(Generic[P]):
    """A sequence in pieces, so that a long one is extended and cut without being copied."""

    items: tuple[P, ...] = ()
    length: int = 0
    """The length of all pieces together."""

    def extended(self, *pieces: P) -> "Pieces[P]":
        """Return the sequence with more pieces at its end."""
        added = tuple(each for each in pieces if len(each))
        return Pieces((*self.items, *added), self.length + sum(map(len, added)))

    def cut(self, length: int) -> "Pieces[P]":
        """Return the beginning of that length."""
        total, count = self.length, len(self.items)
        while count and total - len(self.items[count - 1]) >= length:
            count -= 1
            total -= len(self.items[count])
        if total <= length:
            return Pieces(self.items[:count], total)
        last: Any = self.items[count - 1]
        return Pieces((*self.items[: count - 1], last[: len(last) - (total - length)]), length)

    def without(self, start: int, end: int) -> "Pieces[P]":
        """Return the sequence without a half-open range."""
        total, index = 0, 0
        while index < len(self.items) and total + len(self.items[index]) <= end:
            total += len(self.items[index])
            index += 1
        rest: Any = self.items[index:]
        if rest and total < end:
            rest = (rest[0][end - total :], *rest[1:])
        return self.cut(start).extended(*rest)


@dataclass(frozen=True, slots=True)
class StreamState:
    """A state of the stream, to return to."""

    ids: Pieces[IdPiece] = field(default_factory=Pieces)
    text: Pieces[str] = field(default_factory=Pieces)
    active: ActiveInterventions = field(default_factory=ActiveInterventions)


@dataclass(slots=True)
class PromptStream:
    """The stream as the events of a run build it."""

    ids: Pieces[IdPiece] = field(default_factory=Pieces)
    text: Pieces[str] = field(default_factory=Pieces)
    active: ActiveInterventions = field(default_factory=ActiveInterventions)

    @property
    def state(self) -> StreamState:
        """The current state."""
        return StreamState(self.ids, self.text, self.active)

    def restore(self, state: StreamState) -> None:
        """Return to an earlier state."""
        self.ids, self.text, self.active = state.ids, state.text, state.active

    def restart(self, event: SystemPromptCached) -> None:
        """Begin a new stream with a system prompt, on which no intervention acts."""
        self.ids, self.text = Pieces(), Pieces()
        self.extend(event.ids, event.text)
        self.active = self.active.restarted(self.ids.length)

    def extend(self, ids: IdPiece, text: str) -> None:
        """Append a message or a reply."""
        self.ids, self.text = self.ids.extended(ids), self.text.extended(text)

    def intervene(self, event: InterventionApplied | InterventionRemoved) -> None:
        """Apply or remove an intervention."""
        if isinstance(event, InterventionApplied):
            self.active = self.active.applied(event)
        else:
            self.active = self.active.removed(event)

    def prune(self, event: HistoryPruned) -> None:
        """Remove ranges. Raise RecordingError if the stream does not have them."""
        chars = event.removed_chars[-1][1] if event.removed_chars else 0
        if event.tokens_before != self.ids.length or chars > self.text.length:
            raise RecordingError(
                f"the stream of {self.ids.length} tokens does not have the ranges that were pruned "
                f"for turn {event.turn}: events before it are missing or altered"
            )
        for start, end in reversed(event.removed_tokens):
            self.ids = self.ids.without(start, end)
        for start, end in reversed(event.removed_chars):
            self.text = self.text.without(start, end)
        self.active = self.active.pruned(event.removed_tokens)

    def start_turn(self, event: TurnStarted, *, continues: bool = False) -> None:
        """Become the prompt of a turn. Raise RecordingError if the stream is too short for it.

        A round that `continues` a reply adds its first tokens, which keep their interventions.
        """
        if event.kept_tokens > self.ids.length or event.kept_chars > self.text.length:
            raise RecordingError(
                f"turn {event.turn} keeps {event.kept_tokens} tokens of a stream that has "
                f"{self.ids.length}: events before it are missing or altered"
            )
        self.ids = self.ids.cut(event.kept_tokens).extended(event.added_ids)
        self.text = self.text.cut(event.kept_chars).extended(event.added_text)
        if not continues:
            self.active = self.active.rewritten(event.kept_tokens)

    def abandon_reply(self) -> None:
        """Remove the interventions on a reply that does not continue."""
        self.active = self.active.rewritten(self.ids.length)


def begins_with(text: str, pieces: Iterable[str]) -> bool:
    """Return whether a text begins with the pieces of another."""
    index = 0
    for piece in pieces:
        if not text.startswith(piece, index):
            return False
        index += len(piece)
    return True
