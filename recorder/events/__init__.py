"""The catalogue of events: facts in the past tense, one file a family.

An event has no clock and no id inside; the recorder adds the envelope. A released event never
changes its meaning: that takes a new event, or a new version and an upcast when it is read.
"""

from tokentape.recorder.events.cache import (
    CacheCleared,
    CacheDecided,
    CacheEvicted,
    PrefillCompleted,
)
from tokentape.recorder.events.inside import (
    ActivationObserved,
    InterventionApplied,
    InterventionRemoved,
    InterventionRequested,
    InterventionWithdrawn,
    MemorySampled,
)
from tokentape.recorder.events.prompt import (
    HistoryPruned,
    MessageAdded,
    SystemPromptCached,
    ids_sha256,
)
from tokentape.recorder.events.run import RunFailed, RunFinished, RunForked, RunResumed, RunStarted
from tokentape.recorder.events.tool import ToolCalled, ToolReturned
from tokentape.recorder.events.turn import TokenSampled, TurnFinished, TurnStarted

Event = (
    RunStarted
    | RunForked
    | RunResumed
    | RunFinished
    | RunFailed
    | SystemPromptCached
    | HistoryPruned
    | MessageAdded
    | TurnStarted
    | CacheDecided
    | PrefillCompleted
    | TokenSampled
    | TurnFinished
    | ToolCalled
    | ToolReturned
    | CacheCleared
    | CacheEvicted
    | ActivationObserved
    | InterventionApplied
    | InterventionRemoved
    | InterventionRequested
    | InterventionWithdrawn
    | MemorySampled
)

__all__ = (
    "ActivationObserved",
    "CacheCleared",
    "CacheDecided",
    "CacheEvicted",
    "Event",
    "HistoryPruned",
    "InterventionApplied",
    "InterventionRemoved",
    "InterventionRequested",
    "InterventionWithdrawn",
    "MemorySampled",
    "MessageAdded",
    "PrefillCompleted",
    "RunFailed",
    "RunFinished",
    "RunForked",
    "RunResumed",
    "RunStarted",
    "SystemPromptCached",
    "TokenSampled",
    "ToolCalled",
    "ToolReturned",
    "TurnFinished",
    "TurnStarted",
    "ids_sha256",
)
