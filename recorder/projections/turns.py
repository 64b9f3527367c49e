"""Turns, rebuilt from events alone: no model, no tokenizer."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

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
from tokentape.recorder.projections.active_interventions import ActiveInterventions, ActiveRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn as the model lived it, or one part of a turn in which it called tools.

    `finished` is None where the run was cut off in the turn; then `tokens` are those that were
    sampled before, and the text of the reply is not known without a tokenizer. `pruned` is what
    was taken out of the history before it. `acting` is what was done inside the model at its end,
    and to what came before that.
    """

    started: TurnStarted
    messages: tuple[MessageAdded, ...]
    prompt_ids: tuple[int, ...]
    prompt_text: str
    tokens: tuple[TokenSampled, ...]
    cache: CacheDecided | None
    prefill: PrefillCompleted | None
    finished: TurnFinished | None
    pruned: HistoryPruned | None = None
    acting: ActiveInterventions = field(default_factory=ActiveInterventions)

    @property
    def interventions(self) -> tuple[ActiveRange, ...]:
        """What acted on its prompt and reply, and on which positions, in the order of acting."""
        return self.acting.over(len(self.prompt_ids) + len(self.tokens))

    @property
    def number(self) -> int:
        return self.started.turn

    @property
    def first_step(self) -> int:
        """How many tokens of the turn were sampled in parts before this one."""
        return self.started.first_step

    @property
    def reply_ids(self) -> tuple[int, ...]:
        return tuple(token.token_id for token in self.tokens)

    @property
    def reply_text(self) -> str | None:
        return None if self.finished is None else self.finished.text


@dataclass(slots=True)
class _Stream:
    """The ids and the text that the model has before it, as the events built them."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    acting: ActiveInterventions = field(default_factory=ActiveInterventions)

    @property
    def state(self) -> tuple[list[int], str, ActiveInterventions]:
        return self.ids, self.text, self.acting

    @state.setter
    def state(self, state: tuple[list[int], str, ActiveInterventions]) -> None:
        self.ids, self.text, self.acting = state

    def restart(self, event: SystemPromptCached) -> None:
        self.ids, self.text = list(event.ids), event.text
        # Nothing acts on a system prompt while it is processed.
        self.acting = self.acting.restarted(len(self.ids))

    def intervene(self, event: InterventionApplied | InterventionRemoved) -> None:
        if isinstance(event, InterventionApplied):
            self.acting = self.acting.applied(event)
        else:
            self.acting = self.acting.removed(event)

    def extend(self, ids: Iterable[int], text: str) -> None:
        self.ids = [*self.ids, *ids]
        self.text += text

    def prune(self, event: HistoryPruned) -> None:
        chars = event.removed_chars[-1][1] if event.removed_chars else 0
        if event.tokens_before != len(self.ids) or chars > len(self.text):
            raise RecordingError(
                f"what was pruned for turn {event.turn} is not in the stream of {len(self.ids)} "
                "tokens: events before it are missing or altered"
            )
        self.ids = list(self.ids)
        for start, end in reversed(event.removed_tokens):
            del self.ids[start:end]
        for start, end in reversed(event.removed_chars):
            self.text = self.text[:start] + self.text[end:]
        self.acting = self.acting.pruned(event.removed_tokens)

    def break_off(self) -> None:
        """The turn under way is not gone on with: what acts on its reply has nothing to act on."""
        self.acting = self.acting.rewritten(len(self.ids))

    def start_turn(self, event: TurnStarted) -> None:
        if event.kept_tokens > len(self.ids) or event.kept_chars > len(self.text):
            raise RecordingError(
                f"turn {event.turn} keeps {event.kept_tokens} tokens of a stream that has "
                f"{len(self.ids)}: events before it are missing or altered"
            )
        self.ids = self.ids[: event.kept_tokens] + list(event.added_ids)
        self.text = self.text[: event.kept_chars] + event.added_text
        self.acting = self.acting.rewritten(event.kept_tokens)


def iterate_turns(envelopes: Iterable[Envelope]) -> Iterator[Turn]:
    """Every turn in order, the last one perhaps unfinished.

    Raises RecordingError where the events contradict each other.
    """
    stream = _Stream()
    taken_up = stream.state
    messages: list[MessageAdded] = []
    pruned: HistoryPruned | None = None
    open_turn: _OpenTurn | None = None
    for envelope in envelopes:
        event = envelope.event
        if isinstance(event, SystemPromptCached):
            stream.restart(event)
            taken_up = stream.state
        elif isinstance(event, HistoryPruned):
            stream.prune(event)
            pruned = event
        elif isinstance(event, MessageAdded):
            messages.append(event)
            stream.extend(event.ids, event.text)
        elif isinstance(event, RunResumed):
            stream.state = taken_up
            messages, pruned = [], None
            if open_turn is None and event.turn is not None:
                raise RecordingError(
                    f"the run goes on in turn {event.turn}, which is not under way: events are "
                    "missing or altered"
                )
            if open_turn is not None and not open_turn.goes_on(event):
                yield open_turn.close(None)
                open_turn = None
                stream.break_off()
                taken_up = stream.state
        elif isinstance(event, TurnStarted):
            if open_turn is not None:
                yield open_turn.close(None)
            stream.start_turn(event)
            taken_up = stream.state
            open_turn = _OpenTurn(
                event, tuple(messages), tuple(stream.ids), stream.text, pruned, stream.acting
            )
            messages, pruned = [], None
        elif isinstance(event, _OF_A_TURN):
            if open_turn is None or event.turn != open_turn.started.turn:
                raise RecordingError(
                    f"event {envelope.seq} belongs to turn {event.turn}, which is not under way"
                )
            if isinstance(event, InterventionApplied | InterventionRemoved):
                stream.intervene(event)
                open_turn.acting = stream.acting
                taken_up = stream.state
            elif isinstance(event, TurnFinished):
                turn = open_turn.close(event)
                stream.extend(turn.reply_ids, event.text + event.stop_text)
                taken_up = stream.state
                open_turn = None
                yield turn
            else:
                open_turn.add(event)
    if open_turn is not None:
        yield open_turn.close(None)


def whole_turns(parts: Iterable[Turn]) -> list[Turn]:
    """Turns in one piece, those in which the model called tools, too.

    Such a turn has the prompt that it began with, the messages and tokens of all its parts and the
    end of the last; what stands between its tokens is only in the parts.
    """
    turns: list[Turn] = []
    for part in parts:
        if part.first_step and turns and turns[-1].number == part.number:
            turns[-1] = _joined(turns[-1], part)
        else:
            turns.append(part)
    return turns


def _joined(begun: Turn, part: Turn) -> Turn:
    finished = part.finished
    if finished is not None and begun.finished is not None:
        finished = replace(
            finished,
            text=begun.finished.text + finished.text,
            generated_tokens=begun.finished.generated_tokens + finished.generated_tokens,
            duration_us=begun.finished.duration_us + finished.duration_us,
        )
    return replace(
        begun,
        messages=(*begun.messages, *part.messages),
        tokens=(*begun.tokens, *part.tokens),
        finished=finished,
    )


_OF_A_TURN = (
    CacheDecided,
    InterventionApplied,
    InterventionRemoved,
    PrefillCompleted,
    TokenSampled,
    TurnFinished,
)


class _OpenTurn:
    def __init__(
        self,
        started: TurnStarted,
        messages: tuple[MessageAdded, ...],
        prompt_ids: tuple[int, ...],
        prompt_text: str,
        pruned: HistoryPruned | None,
        acting: ActiveInterventions,
    ) -> None:
        self.started = started
        self._messages = messages
        self._prompt_ids = prompt_ids
        self._prompt_text = prompt_text
        self._pruned = pruned
        self.acting = acting
        self._tokens: list[TokenSampled] = []
        self._cache: CacheDecided | None = None
        self._decided: CacheDecided | None = None
        self._again = 0
        self._prefill: PrefillCompleted | None = None

    def goes_on(self, event: RunResumed) -> bool:
        """Whether the run goes on in this turn. Raises RecordingError where it cannot be so."""
        if event.turn is None:
            return False
        sampled = self.started.first_step + len(self._tokens)
        if (event.turn, event.step) != (self.started.turn, sampled):
            raise RecordingError(
                f"the run goes on behind token {event.step} of turn {event.turn}, and {sampled} "
                f"tokens of turn {self.started.turn} are there: events are missing or altered"
            )
        self._again = len(self._tokens)
        return True

    def add(self, event: CacheDecided | PrefillCompleted | TokenSampled) -> None:
        if isinstance(event, CacheDecided):
            due = len(self._prompt_ids) + self._again
            if event.prompt_tokens != due:
                raise RecordingError(
                    f"turn {event.turn} decided on {event.prompt_tokens} tokens of a prompt of "
                    f"{due}"
                )
            self._decided = event
            # A turn that goes on in another process computes its prompt once more.
            self._cache = self._cache or event
        elif isinstance(event, PrefillCompleted):
            if self._decided is None or sum(event.chunks) != self._decided.computed_tokens:
                raise RecordingError(
                    f"turn {event.turn} forwarded {sum(event.chunks)} tokens, which is not what "
                    "its cache decision left to compute"
                )
            self._prefill = self._prefill or event
        else:
            step = event.step - self.started.first_step
            if event.position != len(self._prompt_ids) + step:
                raise RecordingError(
                    f"turn {event.turn}, step {event.step} is at position {event.position}, which "
                    "is not behind its prompt"
                )
            if step != len(self._tokens):
                due = self.started.first_step + len(self._tokens)
                raise RecordingError(
                    f"turn {event.turn} has step {event.step} where step {due} is due: a token is "
                    "missing or twice there"
                )
            self._tokens.append(event)

    def close(self, finished: TurnFinished | None) -> Turn:
        if finished is not None and finished.generated_tokens != len(self._tokens):
            raise RecordingError(
                f"turn {finished.turn} finished with {finished.generated_tokens} tokens, "
                f"but {len(self._tokens)} were recorded"
            )
        return Turn(
            started=self.started,
            messages=self._messages,
            prompt_ids=self._prompt_ids,
            prompt_text=self._prompt_text,
            tokens=tuple(self._tokens),
            cache=self._cache,
            prefill=self._prefill,
            finished=finished,
            pruned=self._pruned,
            acting=self.acting,
        )
