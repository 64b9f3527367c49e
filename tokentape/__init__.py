"""tokentape: a flight recorder for local language-model experiments.

import tokentape as tt

lm = tt.load_model("smollm2-demo")
store = tt.open_store("sqlite:///runs.db")
with tt.Investigation(lm, store=store, name="probe", system_prompt="You are …", seed=7) as run:
    print(run.chat("Hello", max_new_tokens=20).text)
print(tt.verify(store.recording(run.run_id), lm).verdict)
"""

import importlib
from typing import TYPE_CHECKING, Any

from tokentape.siblings import refuse_strangers

refuse_strangers()

from recorder import (  # noqa: E402 - only after the check above
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
    Cause,
    Diff,
    Divergence,
    Floor,
    NothingToReplayError,
    Rebuilt,
    ReplayError,
    Report,
    TurnVerdict,
    Verdict,
    diff,
    rebuild,
)
from store import (  # noqa: E402
    Erasure,
    Imported,
    Integrity,
    NoSuchRunError,
    OlderStoreError,
    SealingLog,
    StoreError,
    cache_df,
    candidates_df,
    check,
    events_df,
    export_csv,
    export_jsonl,
    export_parquet,
    import_runs,
    open_store,
    pack,
    runs_df,
    tokens_df,
    tools_df,
    turns_df,
    verdicts_df,
)

if TYPE_CHECKING:
    from generation import (
        CachedPrefix,
        CachePolicy,
        GenerationResult,
        GenerationState,
        Intervention,
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
        capture,
        contrast,
        decode,
        default_tools,
        load_model,
        mean_activation,
        tool,
    )
    from replay.calibrate import calibrate
    from replay.floor import read_floor, write_floor
    from replay.regenerate import regenerate
    from replay.verify import verify

__version__ = "0.1.0"

__all__ = (
    "CachePolicy",
    "CachedPrefix",
    "Cause",
    "Diff",
    "Divergence",
    "Envelope",
    "Erasure",
    "EventLog",
    "Floor",
    "GenerationResult",
    "GenerationState",
    "Imported",
    "Integrity",
    "Intervention",
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
    "SealingLog",
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
    "calibrate",
    "candidates_df",
    "capture",
    "check",
    "contrast",
    "decode",
    "default_tools",
    "diff",
    "events_df",
    "export_csv",
    "export_jsonl",
    "export_parquet",
    "import_runs",
    "load_model",
    "mean_activation",
    "open_store",
    "pack",
    "read_floor",
    "rebuild",
    "regenerate",
    "runs_df",
    "tokens_df",
    "tool",
    "tools_df",
    "turns_df",
    "verdicts_df",
    "verify",
    "write_floor",
)

# The rest needs torch and transformers, which take seconds to import: who lists runs needs neither.
# What is not listed here is in `generation`.
_HEAVY = {
    "calibrate": "replay.calibrate",
    "read_floor": "replay.floor",
    "regenerate": "replay.regenerate",
    "verify": "replay.verify",
    "write_floor": "replay.floor",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HEAVY.get(name, "generation"))
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
