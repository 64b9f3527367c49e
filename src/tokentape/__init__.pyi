# The public names and where each is defined: type checkers read this file, and `__init__.py`
# resolves a name by it when it is first used.
from .generation import (
    CachedPrefix as CachedPrefix,
)
from .generation import (
    CachePolicy as CachePolicy,
)
from .generation import (
    GenerationResult as GenerationResult,
)
from .generation import (
    GenerationState as GenerationState,
)
from .generation import (
    Intervention as Intervention,
)
from .generation import (
    Investigation as Investigation,
)
from .generation import (
    LoadedModel as LoadedModel,
)
from .generation import (
    ManualGenerator as ManualGenerator,
)
from .generation import (
    ModelError as ModelError,
)
from .generation import (
    ModelManager as ModelManager,
)
from .generation import (
    PromptError as PromptError,
)
from .generation import (
    Reply as Reply,
)
from .generation import (
    ToolCall as ToolCall,
)
from .generation import (
    ToolError as ToolError,
)
from .generation import (
    ToolInterface as ToolInterface,
)
from .generation import (
    ToolView as ToolView,
)
from .generation import (
    cache_policy as cache_policy,
)
from .generation import (
    capture as capture,
)
from .generation import (
    contrast as contrast,
)
from .generation import (
    decode as decode,
)
from .generation import (
    default_tools as default_tools,
)
from .generation import (
    load_model as load_model,
)
from .generation import (
    mean_activation as mean_activation,
)
from .generation import (
    tool as tool,
)
from .recorder import (
    Envelope as Envelope,
)
from .recorder import (
    EventLog as EventLog,
)
from .recorder import (
    NewerRecordingError as NewerRecordingError,
)
from .recorder import (
    Recorder as Recorder,
)
from .recorder import (
    Recording as Recording,
)
from .recorder import (
    RecordingError as RecordingError,
)
from .recorder import (
    Redactor as Redactor,
)
from .recorder import (
    TokentapeError as TokentapeError,
)
from .replay import (
    Cause as Cause,
)
from .replay import (
    Diff as Diff,
)
from .replay import (
    Divergence as Divergence,
)
from .replay import (
    Floor as Floor,
)
from .replay import (
    NothingToReplayError as NothingToReplayError,
)
from .replay import (
    Rebuilt as Rebuilt,
)
from .replay import (
    ReplayError as ReplayError,
)
from .replay import (
    Report as Report,
)
from .replay import (
    TurnVerdict as TurnVerdict,
)
from .replay import (
    Verdict as Verdict,
)
from .replay import (
    diff as diff,
)
from .replay import (
    rebuild as rebuild,
)
from .replay.calibrate import calibrate as calibrate
from .replay.checking.noise_floor import (
    read_floor as read_floor,
)
from .replay.checking.noise_floor import (
    write_floor as write_floor,
)
from .replay.regenerate import regenerate as regenerate
from .replay.verify import verify as verify
from .store import (
    Erasure as Erasure,
)
from .store import (
    Imported as Imported,
)
from .store import (
    Integrity as Integrity,
)
from .store import (
    NoSuchRunError as NoSuchRunError,
)
from .store import (
    OlderStoreError as OlderStoreError,
)
from .store import (
    SealingLog as SealingLog,
)
from .store import (
    StoreError as StoreError,
)
from .store import (
    cache_df as cache_df,
)
from .store import (
    check as check,
)
from .store import (
    events_df as events_df,
)
from .store import (
    export_csv as export_csv,
)
from .store import (
    export_jsonl as export_jsonl,
)
from .store import (
    export_parquet as export_parquet,
)
from .store import (
    import_runs as import_runs,
)
from .store import (
    open_store as open_store,
)
from .store import (
    pack as pack,
)
from .store import (
    runs_df as runs_df,
)
from .store import (
    tokens_df as tokens_df,
)
from .store import (
    tools_df as tools_df,
)
from .store import (
    top_logprobs_df as top_logprobs_df,
)
from .store import (
    turns_df as turns_df,
)
from .store import (
    verdicts_df as verdicts_df,
)

__version__: str
