# The names of the folder and where each is defined: see `__init__.py`.
from .batch import (
    Batch as Batch,
    BatchEnded as BatchEnded,
    Job as Job,
)
from .cache import (
    CachePolicy as CachePolicy,
    CachedPrefix as CachedPrefix,
    cache_policy as cache_policy,
)
from .callbacks import (
    GenerationState as GenerationState,
)
from .engine.custom_generate import (
    decode as decode,
)
from .engine.manual_generator import (
    ManualGenerator as ManualGenerator,
)
from .engine.model_manager import (
    ModelManager as ModelManager,
)
from .engine.turn import (
    GenerationResult as GenerationResult,
)
from .errors import (
    ModelError as ModelError,
    PromptError as PromptError,
    ToolError as ToolError,
)
from .interventions import (
    Intervention as Intervention,
    capture as capture,
    contrast as contrast,
    mean_activation as mean_activation,
)
from .introspection.toolset import (
    default_tools as default_tools,
)
from .investigation.investigation import (
    Investigation as Investigation,
)
from .investigation.reply import (
    Reply as Reply,
)
from .models.loading import (
    LoadedModel as LoadedModel,
    load_model as load_model,
)
from .plans.many_runs import (
    resume_many as resume_many,
    run_many as run_many,
)
from .plans.plan_memory import (
    plan_memory as plan_memory,
)
from .tools.calls import (
    CallReader as CallReader,
    ParsedCall as ParsedCall,
)
from .tools.declaration import (
    tool as tool,
)
from .tools.interface import (
    ToolInterface as ToolInterface,
    ToolView as ToolView,
)
from .tools.tools_file import (
    load_tools as load_tools,
)
from .tools.tool_call import (
    ToolCall as ToolCall,
)
