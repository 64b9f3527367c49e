"""A run told as it goes: what is put before the model, what is decided, and what it says."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tokentape.recorder import Envelope
from tokentape.recorder.escapes import escape, visible
from tokentape.recorder.events import (
    CacheCleared,
    CacheDecided,
    CacheEvicted,
    Event,
    HistoryPruned,
    InterventionApplied,
    InterventionRemoved,
    InterventionRequested,
    InterventionWithdrawn,
    MessageAdded,
    RunFailed,
    RunFinished,
    RunForked,
    RunResumed,
    RunStarted,
    SystemPromptCached,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)

# A full result is in the recording, and a screen has so many lines.
_RESULT_CHARACTERS_MAX = 400


def readable(text: str) -> str:
    """Text of a model or a tool for a terminal: lines and tabs stay, what cannot be seen is spelt
    out."""
    lines = ("\t".join(map(_spelt, line.split("\t"))) for line in text.split("\n"))
    return "\n".join(lines)


def told(event: Event) -> str | None:
    """An event in one line; None for one that is told otherwise, or not at all."""
    tell = _TOLD.get(type(event))
    return None if tell is None else tell(event)


class TranscriptWriter:
    """Writes a run as its events come, the reply as it grows."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._turn: int | None = None
        self._said: str | None = None
        self._within_line = False

    def event(self, envelope: Envelope) -> None:
        event = envelope.event
        if isinstance(event, TurnStarted) and self._said is not None:
            self._cut_off()
        # The system prompt is put before the first turn, and belongs to it.
        if envelope.turn not in (None, self._turn) and not isinstance(event, SystemPromptCached):
            self._turn = envelope.turn
            self._line(f"── turn {envelope.turn} ──")
        if isinstance(event, TurnStarted):
            return
        if isinstance(event, TurnFinished):
            self._finish(event)
            return
        line = told(event)
        if line is not None:
            self._line(line)

    def piece(self, text: str) -> None:
        """More of the reply."""
        if not self._within_line:
            self._write("assistant: ")
            self._within_line = True
        self._said = (self._said or "") + text
        self._write(readable(text))

    def close(self) -> None:
        """No more will come: a reply that is not at its end is left on a line of its own."""
        if self._within_line:
            self._write("\n")
        self._within_line = False

    def _finish(self, event: TurnFinished) -> None:
        said = self._said or ""
        rest = event.text[len(said) :] if event.text.startswith(said) else f"\n{event.text}"
        self.piece(rest)
        self._said, self._within_line = None, False
        tokens, seconds = event.generated_tokens, event.duration_us / 1_000_000
        self._write(f"\n  [{tokens} tokens in {seconds:.1f} s, stopped by {event.stop_reason}]\n")

    def _cut_off(self) -> None:
        self.close()
        self._said = None
        self._write("  [cut off]\n")

    def _line(self, text: str) -> None:
        self.close()
        self._write(f"{text}\n")


def _spelt(text: str) -> str:
    return "".join(shown for _, shown in escape(text))


def _started(event: RunStarted) -> str:
    model = f", model {visible(event.model)}" if event.model else ""
    return f"run {visible(event.name)}{model}, {event.dtype} on {event.device}, seed {event.seed}"


def _system(event: SystemPromptCached) -> str:
    first, *more = event.content.strip().split("\n")
    lines = f" … {len(more)} lines more" if more else ""
    return f"system: {visible(first)}{lines} ({len(event.ids):,} tokens)"


def _message(event: MessageAdded) -> str | None:
    # The result of a tool was told when the tool returned.
    if event.tool_call_id is not None:
        return None
    return f"{visible(event.role)}: {readable(event.content)}"


def _called(event: ToolCalled) -> str:
    who = "the model calls" if event.caller == "model" else "tool"
    if not event.name:
        return f"{who} something that cannot be read: {visible(event.text)}"
    return f"{who} {visible(event.name)} {visible(_compact(event.arguments))}"


def _returned(event: ToolReturned) -> str:
    shown = visible(event.content[:_RESULT_CHARACTERS_MAX])
    more = "…" if len(event.content) > _RESULT_CHARACTERS_MAX else ""
    return f"  → {shown}{more} ({event.content_tokens:,} tokens)"


def _decided(event: CacheDecided) -> str:
    if not event.reused_tokens:
        return (
            f"cache: {event.decision} ({event.reason}), {event.computed_tokens:,} tokens computed"
        )
    return (
        f"cache: {event.decision} ({event.reason}), {event.reused_tokens:,} of "
        f"{event.prompt_tokens:,} tokens reused, {event.computed_tokens:,} computed"
    )


def _pruned(event: HistoryPruned) -> str:
    removed = event.tokens_before - event.tokens_after
    return f"history: {removed:,} tokens taken out ({event.policy}: {visible(event.reason)})"


def _resumed(event: RunResumed) -> str:
    where = "" if event.turn is None else f" in turn {event.turn}, behind {event.step} tokens"
    return f"resumed{where}"


def _intervened(event: InterventionApplied) -> str:
    layers = visible(", ".join(event.layers))
    return f"intervention {visible(event.name)}: {event.kind} in {layers}, from {event.position} on"


def _requested(event: InterventionRequested) -> str:
    layers = visible(", ".join(event.layers))
    return f"intervention {visible(event.name)}: asked for ({event.kind} in {layers})"


def _finished(event: RunFinished) -> str:
    turns = "turn" if event.turns == 1 else "turns"
    why = f" ({event.reason})" if event.reason else ""
    return f"finished{why}: {event.turns} {turns}, {event.generated_tokens:,} tokens generated"


def _compact(arguments: Mapping[str, Any]) -> str:
    return json.dumps(dict(arguments), ensure_ascii=False)


_TOLD: Mapping[type, Callable[[Any], str | None]] = {
    RunStarted: _started,
    RunForked: lambda event: f"forked from run {event.parent_run_id} at turn {event.at_turn}",
    RunResumed: _resumed,
    SystemPromptCached: _system,
    MessageAdded: _message,
    ToolCalled: _called,
    ToolReturned: _returned,
    CacheDecided: _decided,
    HistoryPruned: _pruned,
    CacheCleared: lambda event: f"cache: cleared ({visible(event.reason)})",
    CacheEvicted: lambda event: f"cache: {event.tokens:,} tokens given up ({event.reason})",
    InterventionRequested: _requested,
    InterventionWithdrawn: lambda event: f"intervention {visible(event.name)}: withdrawn",
    InterventionApplied: _intervened,
    InterventionRemoved: lambda event: f"intervention {visible(event.name)}: removed",
    RunFinished: _finished,
    RunFailed: lambda event: f"failed: {event.error}: {visible(event.message)}",
}
