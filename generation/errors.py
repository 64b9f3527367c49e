"""Errors of the side that makes things happen."""

from tokentape.recorder import TokentapeError


class ModelError(TokentapeError):
    """The model, or what was asked of it, is at fault."""


class PromptError(ModelError):
    """The prompt cannot be given to this model; nothing was done and nothing recorded."""


class ToolError(TokentapeError):
    """A tool was called in a way that it cannot answer; the message is meant for the model."""
