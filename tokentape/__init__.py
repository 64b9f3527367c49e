"""tokentape: a flight recorder for local language-model experiments.

import tokentape as tt

lm = tt.load_model("smollm2-demo")
store = tt.open_store("sqlite:///runs.db")
with tt.Investigation(lm, store=store, name="probe", system_prompt="You are …", seed=7) as run:
    print(run.chat("Hello", max_new_tokens=20).text)
print(tt.verify(store.recording(run.run_id), lm).verdict)
"""

from tokentape.siblings import refuse_strangers

refuse_strangers()

from generation import (  # noqa: E402 - only after the check above
    CachedPrefix,
    CachePolicy,
    GenerationResult,
    GenerationState,
    Investigation,
    LoadedModel,
    ManualGenerator,
    ModelError,
    ModelManager,
    PromptError,
    Reply,
    ToolCall,
    ToolError,
    ToolInterface,
    ToolView,
    cache_policy,
    decode,
    default_tools,
    load_model,
)
from recorder import (  # noqa: E402
    Envelope,
    EventLog,
    NewerRecordingError,
    Recorder,
    Recording,
    RecordingError,
    Redactor,
    TokentapeError,
)
from replay import (  # noqa: E402
    Divergence,
    NothingToReplayError,
    Rebuilt,
    ReplayError,
    Report,
    TurnVerdict,
    Verdict,
    rebuild,
    regenerate,
    verify,
)
from store import (  # noqa: E402
    Erasure,
    Integrity,
    NoSuchRunError,
    OlderStoreError,
    StoreError,
    cache_df,
    candidates_df,
    check,
    events_df,
    export_parquet,
    open_store,
    runs_df,
    tokens_df,
    tools_df,
    turns_df,
)

__version__ = "0.1.0"

__all__ = (
    "CachePolicy",
    "CachedPrefix",
    "Divergence",
    "Envelope",
    "Erasure",
    "EventLog",
    "GenerationResult",
    "GenerationState",
    "Integrity",
    "Investigation",
    "LoadedModel",
    "ManualGenerator",
    "ModelError",
    "ModelManager",
    "NewerRecordingError",
    "NoSuchRunError",
    "NothingToReplayError",
    "OlderStoreError",
    "PromptError",
    "Rebuilt",
    "Recorder",
    "Recording",
    "RecordingError",
    "Redactor",
    "ReplayError",
    "Reply",
    "Report",
    "StoreError",
    "TokentapeError",
    "ToolCall",
    "ToolError",
    "ToolInterface",
    "ToolView",
    "TurnVerdict",
    "Verdict",
    "__version__",
    "cache_df",
    "cache_policy",
    "candidates_df",
    "check",
    "decode",
    "default_tools",
    "events_df",
    "export_parquet",
    "load_model",
    "open_store",
    "rebuild",
    "regenerate",
    "runs_df",
    "tokens_df",
    "tools_df",
    "turns_df",
    "verify",
)
