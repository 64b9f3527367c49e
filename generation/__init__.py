"""Models, the token-by-token engine, tools and investigations."""

from tokentape.generation.cache import CachedPrefix, CachePolicy, cache_policy
from tokentape.generation.callbacks import GenerationState
from tokentape.generation.engine.custom_generate import decode
from tokentape.generation.engine.manual_generator import ManualGenerator
from tokentape.generation.engine.model_manager import ModelManager
from tokentape.generation.engine.turn import GenerationResult
from tokentape.generation.errors import ModelError, PromptError, ToolError
from tokentape.generation.interventions import Intervention, capture, contrast, mean_activation
from tokentape.generation.introspection.toolset import default_tools
from tokentape.generation.investigation.investigation import Investigation
from tokentape.generation.investigation.reply import Reply
from tokentape.generation.models.loading import LoadedModel, load_model
from tokentape.generation.plans.plan_memory import plan_memory
from tokentape.generation.tools.calls import CallReader, ParsedCall
from tokentape.generation.tools.interface import ToolInterface, ToolView, tool
from tokentape.generation.tools.runner import ToolCall

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
    "plan_memory",
    "tool",
)
