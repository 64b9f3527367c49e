"""The turns of a run without their prompts and tokens, for tables."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from tokentape.recorder.events import (
    CacheDecided,
    InterventionApplied,
    InterventionRemoved,
    MessageAdded,
    RunResumed,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.projections import InsideModel
from tokentape.recorder.projections.active_interventions import (
    ActiveInterventions,
    ActiveRange,
    InterventionTracker,
)
from tokentape.recorder.record import RecordFilter
from tokentape.recorder.recording import Recording

_KINDS = frozenset(
    cls.__name__
    for cls in (
        *(CacheDecided, MessageAdded, RunResumed, ToolReturned, TurnFinished, TurnStarted),
        *InterventionTracker.KINDS,
    )
)
_INTERVENTION_KINDS = frozenset((InterventionApplied.__name__, InterventionRemoved.__name__))


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOverview:
    """A turn, or one round of it, without ids and tokens."""

    started: TurnStarted
    messages: tuple[MessageAdded, ...]
    """The messages that were added since the round before."""
    generated_tokens: int
    cache: CacheDecided | None = None
    """The first cache decision; None if the round was cut off before it."""
    finished: TurnFinished | None = None
    """None if the run was cut off in this round."""
    active: ActiveInterventions = field(default_factory=ActiveInterventions)
    """The interventions on the stream at the end of the round."""
    tool_errors: int = 0
    """Tool calls since the round before that ended with an error; in the last round, later ones
    too."""

    @property
    def number(self) -> int:
        """The number of the turn, from 1."""
        return self.started.turn

    @property
    def interventions(self) -> tuple[ActiveRange, ...]:
        """The interventions on its prompt and reply, in the order in which they act."""
        return self.active.over(self.started.prompt_tokens + self.generated_tokens)

    @property
    def inside_model(self) -> InsideModel:
        """The changes inside the model: interventions, adapters, hooks, own processors."""
        return InsideModel.of(
            self.started,
            self.cache,
            interventions=self.interventions,
            message_ids=sum(len(each.ids) for each in self.messages),
            stream_tokens=self.started.prompt_tokens + self.generated_tokens,
        )


def read_overviews(recording: Recording, *, first_turn: int = 1) -> list[TurnOverview]:
    """Return every round from a turn on, in order; no token of a finished round is read."""
    earlier = RecordFilter(kinds=_INTERVENTION_KINDS, last_turn=first_turn - 1)
    if first_turn > 1 and any(recording.selected_events(earlier)):
        # An intervention of an earlier turn may still act.
        return [each for each in read_overviews(recording) if each.number >= first_turn]
    chosen = RecordFilter(kinds=_KINDS, first_turn=first_turn)
    interventions = InterventionTracker()
    found: list[TurnOverview] = []
    messages: list[MessageAdded] = []
    tool_errors = 0
    run_id, after_seq = "", -1

    def count_tokens(last_seq: int | None) -> None:
        """Count the tokens of the last round if it was cut off."""
        if found and found[-1].finished is None:
            tokens = _tokens_between(recording, run_id, after_seq, last_seq)
            found[-1] = replace(found[-1], generated_tokens=tokens)

    for envelope in recording.selected_events(chosen):
        event = envelope.event
        interventions.add(event)
        if isinstance(event, InterventionApplied | InterventionRemoved) and found:
            found[-1] = replace(found[-1], active=interventions.active)
        elif isinstance(event, MessageAdded):
            messages.append(event)
        elif isinstance(event, RunResumed):
            messages = []
        elif isinstance(event, ToolReturned):
            tool_errors += event.error is not None
        elif isinstance(event, TurnStarted):
            if found and found[-1].number == event.turn and found[-1].finished is None:
                # The parent of a fork at a token has more tokens than it shares.
                found[-1] = replace(found[-1], generated_tokens=len(event.added_ids))
            else:
                count_tokens(envelope.seq if envelope.run_id == run_id else None)
            overview = TurnOverview(
                started=event,
                messages=tuple(messages),
                generated_tokens=0,
                active=interventions.active,
                tool_errors=tool_errors,
            )
            found.append(overview)
            messages, tool_errors = [], 0
            run_id, after_seq = envelope.run_id, envelope.seq
        elif found and isinstance(event, CacheDecided):
            found[-1] = replace(found[-1], cache=found[-1].cache or event)
        elif found and isinstance(event, TurnFinished):
            tokens = event.generated_tokens
            found[-1] = replace(found[-1], finished=event, generated_tokens=tokens)
    count_tokens(None)
    if found and tool_errors:
        found[-1] = replace(found[-1], tool_errors=found[-1].tool_errors + tool_errors)
    return list(_join_continued(found))


def _join_continued(found: Iterable[TurnOverview]) -> Iterator[TurnOverview]:
    """Yield the rounds, those whole that a fork at a token continues."""
    begun: TurnOverview | None = None
    text = ""
    for each in found:
        if begun is not None and begun.number == each.number:
            text += each.started.added_text
            finished, tokens = each.finished, begun.generated_tokens + each.generated_tokens
            if finished is not None:
                finished = replace(finished, text=text + finished.text, generated_tokens=tokens)
            each = replace(
                begun,
                generated_tokens=tokens,
                cache=begun.cache or each.cache,
                finished=finished,
                active=each.active,
                tool_errors=begun.tool_errors + each.tool_errors,
            )
        elif begun is not None:
            yield begun
        begun = each if each.finished is None else None
        if begun is None:
            text = ""
            yield each
    if begun is not None:
        yield begun


def _tokens_between(recording: Recording, run_id: str, after_seq: int, last_seq: int | None) -> int:
    runs: Iterator[Recording] = iter((recording, *recording.lineage()))
    run = next(each for each in runs if each.run_id == run_id)
    return len(run.sampled_ids(after_seq, last_seq).seqs)
