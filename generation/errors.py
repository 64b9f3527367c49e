"""Errors of models, prompts and tools."""

from tokentape.recorder import TokentapeError


class ModelError(TokentapeError):
    """A model cannot be used as requested."""


class PromptError(ModelError):
    """A prompt cannot be used with this model. Nothing was recorded."""


class ToolError(TokentapeError):
    """A tool was called with invalid arguments. The message is meant for the model."""
