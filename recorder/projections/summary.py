"""A run in one row, folded from its events."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tokentape.recorder.envelope import Envelope
from tokentape.recorder.events import (
    CacheDecided,
    Event,
    RunFailed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    TurnFinished,
)
from tokentape.recorder.events.turn import TOOL_CALL


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """`status` is `running` until the run says otherwise: also for one whose process was killed.
    It is `finished`, `interrupted` or `failed` then, and `running` again once it is resumed.

    `turns` and `generated_tokens` count the turns that finished, `prompt_tokens` and
    `reused_tokens` those that began; of a fork only its own. `parent_run_id` and `forked_at_turn`
    say what it was forked from, and are None where it was not.
    """

    run_id: str
    name: str
    status: str
    model: str
    seed: int | None
    started_at_us: int
    updated_at_us: int
    turns: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    parent_run_id: str | None = None
    forked_at_turn: int | None = None


SUMMARISED = (
    RunStarted,
    RunForked,
    RunResumed,
    CacheDecided,
    TurnFinished,
    RunFinished,
    RunFailed,
)
"""The events that a summary is folded from."""


def changes_summary(event: Event) -> bool:
    """True for one of `SUMMARISED`."""
    return isinstance(event, SUMMARISED)


def summarise(summary: RunSummary | None, envelope: Envelope) -> RunSummary | None:
    """The summary after one more event; None before the run has started."""
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
    if summary is None:
        return None
    if isinstance(event, CacheDecided):
        return replace(
            summary,
            updated_at_us=at_us,
            prompt_tokens=summary.prompt_tokens + event.prompt_tokens,
            reused_tokens=summary.reused_tokens + event.reused_tokens,
        )
    if isinstance(event, TurnFinished):
        return replace(
            summary,
            updated_at_us=at_us,
            turns=summary.turns + (event.stop_reason != TOOL_CALL),
            generated_tokens=summary.generated_tokens + event.generated_tokens,
        )
    if isinstance(event, RunForked):
        return replace(
            summary,
            updated_at_us=at_us,
            parent_run_id=event.parent_run_id,
            forked_at_turn=event.at_turn,
        )
    if isinstance(event, RunResumed):
        return replace(summary, updated_at_us=at_us, status="running")
    if isinstance(event, RunFinished):
        return replace(summary, updated_at_us=at_us, status=event.reason or "finished")
    if isinstance(event, RunFailed):
        return replace(summary, updated_at_us=at_us, status="failed")
    return summary


def summarise_all(envelopes: Iterable[Envelope]) -> RunSummary | None:
    summary: RunSummary | None = None
    for envelope in envelopes:
        summary = summarise(summary, envelope)
    return summary
