"""A round of a turn that has started and not finished."""

from tokentape.recorder.errors import RecordingError
from tokentape.recorder.events import (
    CacheDecided,
    HistoryPruned,
    MessageAdded,
    PrefillCompleted,
    RunResumed,
    TokenSampled,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.projections.prompt_stream import ReadIds, StreamState
from tokentape.recorder.projections.turn import Turn


class OpenRound:
    """Collects the events of one round and checks that they fit together.

    Every method raises RecordingError for an event that contradicts the others.
    """

    def __init__(
        self,
        started: TurnStarted,
        stream: StreamState,
        messages: tuple[MessageAdded, ...],
        pruned: HistoryPruned | None,
        read_ids: ReadIds,
    ) -> None:
        self.started = started
        self.active = stream.active
        """The interventions on the stream; the caller updates it when they change."""
        self._prompt = stream
        self._read_ids = read_ids
        self._messages = messages
        self._pruned = pruned
        self._tokens: list[TokenSampled] = []
        self._cache: CacheDecided | None = None
        self._decided: CacheDecided | None = None
        self._computed_again = 0
        self._prefill: PrefillCompleted | None = None

    def continues(self, event: RunResumed) -> bool:
        """Return whether the resumed run continues this round."""
        if event.turn is None:
            return False
        sampled = self.started.first_step + len(self._tokens)
        if (event.turn, event.step) != (self.started.turn, sampled):
            raise RecordingError(
                f"the run is resumed after token {event.step} of turn {event.turn}, and turn "
                f"{self.started.turn} has {sampled} tokens: events are missing or altered"
            )
        self._computed_again = len(self._tokens)
        return True

    def add(self, event: CacheDecided | PrefillCompleted | TokenSampled) -> None:
        """Add the next event of the round."""
        if isinstance(event, CacheDecided):
            self._decide(event)
        elif isinstance(event, PrefillCompleted):
            self._complete_prefill(event)
        else:
            self._add_token(event)

    def close(self, finished: TurnFinished | None) -> Turn:
        """Return the round with its end, or without one if it was cut off."""
        if finished is not None and finished.generated_tokens != len(self._tokens):
            raise RecordingError(
                f"turn {finished.turn} finished with {finished.generated_tokens} tokens, "
                f"but {len(self._tokens)} were recorded"
            )
        forced_ids = self.started.forced_ids
        chosen = tuple(token.token_id for token in self._tokens[: len(forced_ids)])
        if chosen != forced_ids[: len(chosen)]:
            raise RecordingError(
                f"turn {self.started.turn} has other tokens than those that were chosen for it: "
                "events are missing or altered"
            )
        return Turn(
            started=self.started,
            messages=self._messages,
            prompt_ids=self._read_ids(self._prompt.ids.items),
            prompt_text="".join(self._prompt.text.items),
            tokens=tuple(self._tokens),
            cache=self._cache,
            prefill=self._prefill,
            finished=finished,
            pruned=self._pruned,
            active=self.active,
            forced_steps=tuple(token.step for token in self._tokens[: len(forced_ids)]),
        )

    def check_continued_by(self, event: TurnStarted) -> None:
        """Check that the event begins a round with the tokens that this one has so far."""
        tokens = len(self._tokens)
        ids = tuple(token.token_id for token in self._tokens)
        same = (
            event.added_ids == ids
            and event.kept_tokens == self._prompt.ids.length
            and event.first_step == self.started.first_step + tokens
            and event.continued_tokens == self.started.continued_tokens + tokens
        )
        if not same:
            raise RecordingError(
                f"turn {event.turn} is continued after {event.first_step} tokens, which are not "
                "those before it: events are missing or altered"
            )

    def _decide(self, event: CacheDecided) -> None:
        due = self._prompt.ids.length + self._computed_again
        if event.prompt_tokens != due:
            raise RecordingError(
                f"turn {event.turn} decided on {event.prompt_tokens} tokens of a prompt of {due}"
            )
        self._decided = event
        # A round that is resumed in another process computes its prompt a second time.
        self._cache = self._cache or event

    def _complete_prefill(self, event: PrefillCompleted) -> None:
        if self._decided is None or sum(event.chunks) != self._decided.computed_tokens:
            raise RecordingError(
                f"turn {event.turn} forwarded {sum(event.chunks)} tokens, and its cache decision "
                "left another number to compute"
            )
        self._prefill = self._prefill or event

    def _add_token(self, event: TokenSampled) -> None:
        step = event.step - self.started.first_step
        if event.position != self._prompt.ids.length + step:
            raise RecordingError(
                f"turn {event.turn}, step {event.step} is at position {event.position}, which "
                "does not follow its prompt"
            )
        if step != len(self._tokens):
            due = self.started.first_step + len(self._tokens)
            raise RecordingError(
                f"turn {event.turn} has step {event.step} where step {due} is due: a token is "
                "missing or recorded twice"
            )
        self._tokens.append(event)
