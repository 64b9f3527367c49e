"""The stream of a conversation: the ids and the text that the next prompt is built from."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tokentape.recorder.errors import RecordingError
from tokentape.recorder.events import (
    HistoryPruned,
    InterventionApplied,
    InterventionRemoved,
    SystemPromptCached,
    TurnStarted,
)
from tokentape.recorder.projections.active_interventions import ActiveInterventions


@dataclass(frozen=True, slots=True)
class StreamState:
    """A state of the stream, to return to."""

    ids: list[int]
    text: str
    active: ActiveInterventions


@dataclass(slots=True)
class PromptStream:
    """The stream as the events of a run build it. Lists of ids are replaced, never changed."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
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
        self.ids, self.text = list(event.ids), event.text
        self.active = self.active.restarted(len(self.ids))

    def extend(self, ids: Iterable[int], text: str) -> None:
        """Append a message or a reply."""
        self.ids = [*self.ids, *ids]
        self.text += text

    def intervene(self, event: InterventionApplied | InterventionRemoved) -> None:
        """Apply or remove an intervention."""
        if isinstance(event, InterventionApplied):
            self.active = self.active.applied(event)
        else:
            self.active = self.active.removed(event)

    def prune(self, event: HistoryPruned) -> None:
        """Remove ranges. Raise RecordingError if the stream does not have them."""
        chars = event.removed_chars[-1][1] if event.removed_chars else 0
        if event.tokens_before != len(self.ids) or chars > len(self.text):
            raise RecordingError(
                f"the stream of {len(self.ids)} tokens does not have the ranges that were pruned "
                f"for turn {event.turn}: events before it are missing or altered"
            )
        self.ids = list(self.ids)
        for start, end in reversed(event.removed_tokens):
            del self.ids[start:end]
        for start, end in reversed(event.removed_chars):
            self.text = self.text[:start] + self.text[end:]
        self.active = self.active.pruned(event.removed_tokens)

    def start_turn(self, event: TurnStarted) -> None:
        """Become the prompt of a turn. Raise RecordingError if the stream is too short for it."""
        if event.kept_tokens > len(self.ids) or event.kept_chars > len(self.text):
            raise RecordingError(
                f"turn {event.turn} keeps {event.kept_tokens} tokens of a stream that has "
                f"{len(self.ids)}: events before it are missing or altered"
            )
        self.ids = self.ids[: event.kept_tokens] + list(event.added_ids)
        self.text = self.text[: event.kept_chars] + event.added_text
        self.active = self.active.rewritten(event.kept_tokens)

    def abandon_reply(self) -> None:
        """Remove the interventions on a reply that does not continue."""
        self.active = self.active.rewritten(len(self.ids))
