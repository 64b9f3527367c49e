"""The catalogue of events: facts in the past tense, one file per family.

Each class also declares how it is treated: its `traits`, the redaction of its fields
(`events.fields`) and its text in a transcript (`describe`). A released class never changes
its meaning: a change takes a new class, or a new version and an upcaster.
"""

import typing

from tokentape.recorder.events.activation import ActivationObserved, ActivationSource
from tokentape.recorder.events.cache import (
    CacheCleared,
    CacheDecided,
    CacheDecision,
    CacheEvicted,
    CacheMode,
    CacheSource,
    EvictionReason,
    PrefillCompleted,
)
from tokentape.recorder.events.fields import Redact, redaction_rules
from tokentape.recorder.events.imported import ConversationImported, MessageDetailsImported
from tokentape.recorder.events.intervention import (
    InterventionApplied,
    InterventionDescribed,
    InterventionKind,
    InterventionRemoved,
    InterventionRequested,
    InterventionWithdrawn,
)
from tokentape.recorder.events.memory import MemorySampled
from tokentape.recorder.events.prompt import (
    HistoryPruned,
    MessageAdded,
    PruningPolicy,
    SystemPromptCached,
    ids_sha256,
)
from tokentape.recorder.events.run import RunFailed, RunFinished, RunForked, RunResumed, RunStarted
from tokentape.recorder.events.tool import ToolCalled, ToolCaller, ToolReturned
from tokentape.recorder.events.traits import BelongsTo, EventTraits
from tokentape.recorder.events.turn import (
    ForwardsShared,
    StopReason,
    TokenSampled,
    TokensSpelled,
    TurnFinished,
    TurnStarted,
)

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
    | ForwardsShared
    | TokenSampled
    | TokensSpelled
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
    | ConversationImported
    | MessageDetailsImported
)

EVENT_CLASSES: dict[str, type[Event]] = {cls.__name__: cls for cls in typing.get_args(Event)}
"""Every class of events by its kind, which is its name."""

REDACTION_RULES: dict[type[Event], dict[str, Redact]] = {
    cls: redaction_rules(cls) for cls in EVENT_CLASSES.values()
}
"""How each field is redacted; fields that never change are left out."""

TOKEN_KIND = TokenSampled.__name__

__all__ = (
    "EVENT_CLASSES",
    "REDACTION_RULES",
    "TOKEN_KIND",
    "ActivationObserved",
    "ActivationSource",
    "BelongsTo",
    "CacheCleared",
    "CacheDecided",
    "CacheDecision",
    "CacheEvicted",
    "CacheMode",
    "CacheSource",
    "ConversationImported",
    "Event",
    "EventTraits",
    "EvictionReason",
    "ForwardsShared",
    "HistoryPruned",
    "InterventionApplied",
    "InterventionDescribed",
    "InterventionKind",
    "InterventionRemoved",
    "InterventionRequested",
    "InterventionWithdrawn",
    "MemorySampled",
    "MessageAdded",
    "MessageDetailsImported",
    "PrefillCompleted",
    "PruningPolicy",
    "Redact",
    "RunFailed",
    "RunFinished",
    "RunForked",
    "RunResumed",
    "RunStarted",
    "StopReason",
    "SystemPromptCached",
    "TokenSampled",
    "TokensSpelled",
    "ToolCalled",
    "ToolCaller",
    "ToolReturned",
    "TurnFinished",
    "TurnStarted",
    "ids_sha256",
)
