"""Makes it happen: models, the token-by-token engine, tools and investigations."""

from generation.errors import ModelError, PromptError, ToolError
from generation.investigation import Investigation, Reply, ToolCall
from generation.manual import ManualGenerator
from generation.models import LoadedModel, load_model
from generation.tools import ToolInterface, ToolView, default_tools
from generation.turn import GenerationResult

__all__ = (
    "GenerationResult",
    "Investigation",
    "LoadedModel",
    "ManualGenerator",
    "ModelError",
    "PromptError",
    "Reply",
    "ToolCall",
    "ToolError",
    "ToolInterface",
    "ToolView",
    "default_tools",
    "load_model",
)
