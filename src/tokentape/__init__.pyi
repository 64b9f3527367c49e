# The public names and where each is defined: type checkers read this file, and `__init__.py`
# resolves a name by it when it is first used.
from .generation import (
    Batch as Batch,
    GenerationState as GenerationState,
    Intervention as Intervention,
    Investigation as Investigation,
    LoadedModel as LoadedModel,
    ManualGenerator as ManualGenerator,
    ModelError as ModelError,
    ModelManager as ModelManager,
    PromptError as PromptError,
    Reply as Reply,
    ToolCall as ToolCall,
    ToolError as ToolError,
    ToolInterface as ToolInterface,
    ToolView as ToolView,
    cache_policy as cache_policy,
    capture as capture,
    contrast as contrast,
    decode as decode,
    default_tools as default_tools,
    load_model as load_model,
    load_tools as load_tools,
    mean_activation as mean_activation,
    plan_memory as plan_memory,
    resume_many as resume_many,
    run_many as run_many,
    tool as tool,
)
from .recorder import (
    Envelope as Envelope,
    EventLog as EventLog,
    NewerRecordingError as NewerRecordingError,
    Recorder as Recorder,
    Recording as Recording,
    RecordingError as RecordingError,
    Redactor as Redactor,
    TokentapeError as TokentapeError,
)
from .replay import (
    NothingToReplayError as NothingToReplayError,
    ReplayError as ReplayError,
    Report as Report,
    Verdict as Verdict,
    diff as diff,
    rebuild as rebuild,
)
from .replay.calibrate import (
    calibrate as calibrate,
)
from .replay.checking.noise_floor import (
    read_floor as read_floor,
    write_floor as write_floor,
)
from .replay.playback import (
    Playback as Playback,
    PlaybackMismatchError as PlaybackMismatchError,
    playback as playback,
)
from .replay.regenerate import (
    regenerate as regenerate,
)
from .replay.retrace import (
    retrace as retrace,
)
from .replay.verify import (
    verify as verify,
)
from .replay.verify_many import (
    verify_many as verify_many,
)
from .replay.view.run_page import (
    view as view,
)
from .store import (
    MissingLibraryError as MissingLibraryError,
    NoSuchRunError as NoSuchRunError,
    SealingLog as SealingLog,
    SignatureError as SignatureError,
    StoreError as StoreError,
    activations_df as activations_df,
    cache_df as cache_df,
    check as check,
    events_df as events_df,
    export_csv as export_csv,
    export_datasette as export_datasette,
    export_eval as export_eval,
    export_jsonl as export_jsonl,
    export_otlp as export_otlp,
    export_parquet as export_parquet,
    export_scout as export_scout,
    import_runs as import_runs,
    interventions_df as interventions_df,
    messages_df as messages_df,
    open_store as open_store,
    pack as pack,
    plots as plots,
    runs_df as runs_df,
    seeds_df as seeds_df,
    sign as sign,
    text_to_sign as text_to_sign,
    tokens_df as tokens_df,
    tools_df as tools_df,
    top_logprobs_df as top_logprobs_df,
    turns_df as turns_df,
    verdicts_df as verdicts_df,
)

__version__: str
