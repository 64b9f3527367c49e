"""Rebuild a run from its events: no model, no tokenizer."""

from dataclasses import dataclass

from tokentape.recorder import Recording, RecordingError
from tokentape.recorder.events import SystemPromptCached, ids_sha256
from tokentape.recorder.projections import Message, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """The exact ids and text of every prompt and reply, and the conversation they make."""

    run_id: str
    turns: tuple[Turn, ...]
    messages: tuple[Message, ...]


def rebuild(recording: Recording) -> Rebuilt:
    """Fold the events. Raises RecordingError where they contradict each other."""
    altered = find_altered(recording)
    if altered:
        raise RecordingError(f"run {recording.run_id}: {altered[0]}")
    return Rebuilt(
        run_id=recording.run_id,
        turns=tuple(recording.turns()),
        messages=tuple(recording.messages()),
    )


def find_altered(recording: Recording) -> tuple[str, ...]:
    """What no longer agrees with its own hash, in words."""
    return tuple(
        f"the ids of the system prompt (event {envelope.seq}) do not have their recorded sha256"
        for envelope in recording.events()
        if isinstance(envelope.event, SystemPromptCached)
        and ids_sha256(envelope.event.ids) != envelope.event.sha256
    )
