# The names of the room and where each is defined: see `__init__.py`.
from . import (
    plots as plots,
)
from .attachments import (
    StoredFloor as StoredFloor,
    StoredLabel as StoredLabel,
    StoredVerdict as StoredVerdict,
)
from .copies.datasette import (
    export_datasette as export_datasette,
)
from .copies.imported import (
    Imported as Imported,
)
from .copies.importing import (
    import_runs as import_runs,
)
from .copies.inspect_eval import (
    export_eval as export_eval,
)
from .copies.jsonl import (
    export_jsonl as export_jsonl,
)
from .copies.otlp import (
    export_otlp as export_otlp,
)
from .copies.scout import (
    export_scout as export_scout,
)
from .copies.spreadsheets import (
    export_csv as export_csv,
)
from .default_store import (
    DEFAULT_URL as DEFAULT_URL,
)
from .errors import (
    MissingLibraryError as MissingLibraryError,
    NewerStoreError as NewerStoreError,
    NoSuchRunError as NoSuchRunError,
    OlderStoreError as OlderStoreError,
    StoreError as StoreError,
)
from .frames.frames import (
    activations_df as activations_df,
    cache_df as cache_df,
    events_df as events_df,
    interventions_df as interventions_df,
    messages_df as messages_df,
    runs_df as runs_df,
    tokens_df as tokens_df,
    tools_df as tools_df,
    top_logprobs_df as top_logprobs_df,
    turns_df as turns_df,
    verdicts_df as verdicts_df,
)
from .frames.seeds import (
    seeds_df as seeds_df,
)
from .integrity import (
    Integrity as Integrity,
    check as check,
)
from .live.database import (
    DatabaseStore as DatabaseStore,
)
from .live.erasure import (
    Erasure as Erasure,
)
from .live.schema import (
    Upgrade as Upgrade,
)
from .opening import (
    current_schema as current_schema,
    database_url as database_url,
    open_store as open_store,
    upgrade_store as upgrade_store,
)
from .run_end import (
    endings_of as endings_of,
    errors_of as errors_of,
    status_text_of as status_text_of,
    status_texts as status_texts,
)
from .run_forks import (
    forks_of as forks_of,
)
from .run_process import (
    RunProcess as RunProcess,
    close_run as close_run,
    process_of as process_of,
)
from .sealed.packing import (
    pack as pack,
)
from .sealed.reader import (
    ParquetStore as ParquetStore,
)
from .sealed.sealing import (
    export_parquet as export_parquet,
)
from .sealed.sealing_log import (
    SealingLog as SealingLog,
)
from .signing.sign import (
    sign as sign,
    text_to_sign as text_to_sign,
)
from .signing.wire import (
    SignatureError as SignatureError,
)
from .tool_errors import (
    count_tool_errors as count_tool_errors,
)
