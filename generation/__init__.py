"""Makes it happen: models, the token-by-token engine, tools and investigations."""

from tokentape.generation.cache import CachedPrefix, CachePolicy, cache_policy
from tokentape.generation.custom_generate import decode
from tokentape.generation.errors import ModelError, PromptError, ToolError
from tokentape.generation.interventions import Intervention, capture, contrast, mean_activation
from tokentape.generation.introspection.toolset import default_tools
from tokentape.generation.investigation import Investigation
from tokentape.generation.manual import ManualGenerator
from tokentape.generation.model_manager import ModelManager
from tokentape.generation.models import LoadedModel, load_model
from tokentape.generation.reply import Reply
from tokentape.generation.state import GenerationState
from tokentape.generation.tool_calls import CallReader, ParsedCall
from tokentape.generation.tool_use import ToolCall
from tokentape.generation.tools import ToolInterface, ToolView, tool
from tokentape.generation.turn import GenerationResult

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
