"""Rebuild a run from its events, without a model or a tokenizer."""

from dataclasses import dataclass

from tokentape.recorder import Recording, RecordingError
from tokentape.recorder.projections import Message, Turn
from tokentape.replay.recorded.loaded_run import LoadedRun, load_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """The exact ids and text of every prompt and reply of a run, and its messages."""

    run_id: str
    turns: tuple[Turn, ...]
    messages: tuple[Message, ...]


def rebuild(recording: Recording | LoadedRun) -> Rebuilt:
    """Rebuild every prompt and reply of a run from its events alone.

    Raise RecordingError if the events contradict each other.

    Example:
        >>> import tokentape as tt
        >>> rebuilt = tt.rebuild(store.recording(run_id))
        >>> [turn.number for turn in rebuilt.turns]
        [1, 2, 3]
        >>> rebuilt.messages[0].role
        'system'
    """
    run = load_run(recording)
    broken = run.broken_prompt_hashes()
    if broken:
        raise RecordingError(f"run {run.run_id}: {broken[0]}")
    return Rebuilt(run_id=run.run_id, turns=run.turns, messages=run.messages())
