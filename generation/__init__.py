"""Makes it happen: models, the token-by-token engine, tools and investigations."""

from generation.cache import CachedPrefix, CachePolicy, cache_policy
from generation.custom_generate import decode
from generation.errors import ModelError, PromptError, ToolError
from generation.interventions import Intervention, capture, contrast, mean_activation
from generation.introspection.toolset import default_tools
from generation.investigation import Investigation
from generation.manual import ManualGenerator
from generation.model_manager import ModelManager
from generation.models import LoadedModel, load_model
from generation.reply import Reply
from generation.state import GenerationState
from generation.tool_calls import CallReader, ParsedCall
from generation.tool_use import ToolCall
from generation.tools import ToolInterface, ToolView, tool
from generation.turn import GenerationResult

__all__ = (
    "CachePolicy",
    "CachedPrefix",
    "CallReader",
    "GenerationResult",
    "GenerationState",
    "Intervention",
    "Investigation",
    "LoadedModel",
    "ManualGenerator",
    "ModelError",
    "ModelManager",
    "ParsedCall",
    "PromptError",
    "Reply",
    "ToolCall",
    "ToolError",
    "ToolInterface",
    "ToolView",
    "cache_policy",
    "capture",
    "contrast",
    "decode",
    "default_tools",
    "load_model",
    "mean_activation",
    "tool",
)
