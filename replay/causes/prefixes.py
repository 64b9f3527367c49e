"""States that a run did not compute itself, as a cause: a prefix folder's, or the caller's."""

from tokentape.recorder import Envelope
from tokentape.recorder.events import (
    CacheCleared,
    CacheDecided,
    CacheDecision,
    CacheSource,
    RunResumed,
    RunStarted,
    SystemPromptCached,
)
from tokentape.replay.causes.evidence import Evidence

_ORIGINS = {
    CacheSource.DISK: "a prefix folder",
    CacheSource.GIVEN: "the caller's past_key_values",
}


def restored_turns(envelopes: tuple[Envelope, ...]) -> dict[int, CacheSource]:
    """Return the turns that read states which the run did not compute, with their source.

    A turn that reuses the states of such a turn reads them, too.
    """
    found: dict[int, CacheSource] = {}
    held = CacheSource.COMPUTED
    for envelope in envelopes:
        event = envelope.event
        if isinstance(event, RunStarted | RunResumed | CacheCleared):
            held = CacheSource.COMPUTED
        elif isinstance(event, SystemPromptCached):
            held = event.source if event.source in _ORIGINS else CacheSource.COMPUTED
        elif isinstance(event, CacheDecided):
            if event.source in _ORIGINS:
                held = event.source
            elif event.decision is CacheDecision.MISS:
                held = CacheSource.COMPUTED
            if held in _ORIGINS and event.reused_tokens:
                found[event.turn] = held
    return found


def prefix_sentence(evidence: Evidence, floor: float) -> str:
    """Return why restored states are the cause; empty if a turn speaks against it.

    Every replayed turn that read them must differ by more than `floor` nats, and no other.
    """
    restored = restored_turns(evidence.run.envelopes)
    replayed = {each.turn.number for each in evidence.turns}
    differing = {
        each.turn.number for each in evidence.turns if max(each.differences, default=0.0) > floor
    }
    reading = replayed & set(restored)
    if not reading or differing != reading:
        return ""
    first = min(reading)
    others = "and no other turn does" if replayed - reading else "as all turns do"
    return (
        f"every turn that read states from {_ORIGINS[restored[first]]} differs, {others}, and no "
        "event says how they were computed (weights, config and code are those recorded, but the "
        "ids of the prompt may have been changed as well)"
    )
