"""The prompt of a turn, as ids and as text, relative to the stream before it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokentape.generation.cache import common_prefix_length
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.history.pruning import Pruning
from tokentape.generation.history.segments import Segment
from tokentape.generation.history.suffix import EncodedText
from tokentape.recorder.events import HistoryPruned, MessageAdded
from tokentape.recorder.short_forms import short_repr

OWN_PROMPT = "own_prompt"
"""The `history_reason` of a prompt outside of the conversation."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Prompt:
    """The complete prompt of a turn, relative to the stream before it. See `TurnStarted`."""

    ids: tuple[int, ...]
    text: str
    messages: tuple[MessageAdded, ...]
    kept_tokens: int
    """Number of ids of the stream, and of the new messages, with which the prompt begins."""
    kept_chars: int
    """Number of characters of their text."""
    added_ids: tuple[int, ...]
    added_text: str
    history_reason: str
    """Why the prompt does not extend the stream; empty if it does."""
    segments: tuple[Segment, ...] = field(default=(), repr=False)
    """The conversation including this prompt; empty if the prompt is not part of it."""
    pruning: Pruning | None = None
    """The pruning that is applied to the stream first."""
    stream_tokens: int = 0
    """Number of tokens in the stream before the pruning."""

    def __repr__(self) -> str:
        return short_repr(
            self, f"of {len(self.ids):,} tokens,", f"{self.kept_tokens:,} of them kept"
        )

    def events(self, turn: int) -> tuple[HistoryPruned | MessageAdded, ...]:
        """Return the events to record before the turn starts."""
        if self.pruning is None:
            return self.messages
        return (self.pruning.pruned_event(turn, self.stream_tokens), *self.messages)


def prompt_over(
    stream: EncodedText,
    ids: tuple[int, ...],
    text: str,
    new: Sequence[NewMessage] = (),
    *,
    reason: str,
    segments: tuple[Segment, ...] = (),
) -> Prompt:
    """Return a prompt with these ids that shares the common prefix with the stream."""
    kept_tokens = common_prefix_length(stream.ids, ids)
    kept_chars = common_prefix_length(stream.escaped, text)
    return Prompt(
        ids=ids,
        text=text,
        messages=tuple(message.added() for message in new),
        kept_tokens=kept_tokens,
        kept_chars=kept_chars,
        added_ids=ids[kept_tokens:],
        added_text=text[kept_chars:],
        history_reason=reason,
        segments=segments,
    )
