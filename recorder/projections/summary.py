"""A run in one row."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tokentape.recorder.envelope import Envelope
from tokentape.recorder.events import (
    CacheDecided,
    RunFailed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    StopReason,
    TurnFinished,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """The status and the totals of a run, without the turns that a fork shares."""

    run_id: str
    name: str
    status: str
    """`running`, also if the process was killed; `finished`, `interrupted` or `failed`; `imported`
    for a conversation without tokens."""
    model: str
    seed: int | None
    started_at_us: int
    updated_at_us: int
    """The time of the last event that changed the summary."""
    turns: int = 0
    """Turns that finished."""
    prompt_tokens: int = 0
    """Tokens of all prompts, also of turns that did not finish."""
    reused_tokens: int = 0
    """Tokens of prompts that were taken from the cache."""
    generated_tokens: int = 0
    """Tokens of the turns that finished."""
    parent_run_id: str | None = None
    """The run that it was forked from."""
    forked_at_turn: int | None = None
    """The first turn that it does not share with its parent."""

    @property
    def has_shared_turns(self) -> bool:
        """Whether it shares turns with a parent, which its totals leave out."""
        return self.parent_run_id is not None and (self.forked_at_turn or 0) > 1


def summarise(summary: RunSummary | None, envelope: Envelope) -> RunSummary | None:
    """Return the summary after one more event, or None before the run has started."""
    event, at_us = envelope.event, envelope.at_us
    if isinstance(event, RunStarted):
        return RunSummary(
            run_id=envelope.run_id,
            name=event.name,
            status="running",
            model=event.model,
            seed=event.seed,
            started_at_us=at_us,
            updated_at_us=at_us,
        )
    if summary is None or not event.traits.changes_summary:
        return summary
    summary = replace(summary, updated_at_us=at_us)
    if isinstance(event, CacheDecided):
        return replace(
            summary,
            prompt_tokens=summary.prompt_tokens + event.prompt_tokens,
            reused_tokens=summary.reused_tokens + event.reused_tokens,
        )
    if isinstance(event, TurnFinished):
        return replace(
            summary,
            turns=summary.turns + (event.stop_reason != StopReason.TOOL_CALL),
            generated_tokens=summary.generated_tokens + event.generated_tokens,
        )
    if isinstance(event, RunForked):
        return replace(summary, parent_run_id=event.parent_run_id, forked_at_turn=event.at_turn)
    if isinstance(event, RunResumed):
        return replace(summary, status="running")
    if isinstance(event, RunFinished | RunFailed):
        return replace(summary, status=event.status)
    raise TypeError(f"{type(event).__name__} says that it changes the summary, and none is folded")


def summarise_all(envelopes: Iterable[Envelope]) -> RunSummary | None:
    """Return the summary of a run's events, or None if the run has not started."""
    summary: RunSummary | None = None
    for envelope in envelopes:
        summary = summarise(summary, envelope)
    return summary
