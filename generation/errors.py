"""Errors of models, prompts and tools."""

from tokentape.recorder import TokentapeError
from tokentape.recorder.errors import TokentapeWarning


class ModelError(TokentapeError):
    """A model cannot be used as requested."""


class PromptError(ModelError):
    """A prompt cannot be used with this model. Nothing was recorded."""


class PromptTooLongError(PromptError):
    """A prompt does not fit into the context of the model, or into the budget of the run."""


class TemplateTooCostlyError(PromptError):
    """A chat template takes more time or memory than any conversation needs."""


class ToolError(TokentapeError):
    """A tool was called with invalid arguments. The message is meant for the model."""


class ToolsFileError(TokentapeError):
    """A Python file with tools cannot be used."""


class CallFormatWarning(TokentapeWarning):
    """Calls that the model writes may not be found, since their format is not known."""


class LowMemoryWarning(TokentapeWarning):
    """A turn needs more memory than is free."""


class ToolFailedWarning(TokentapeWarning):
    """A tool raised an exception, exceeded its time limit, or returned what is not JSON.

    It is also given for a wrong call of the user's own. The model reads the error.
    """


class UnreplayableWarning(TokentapeWarning):
    """A turn is requested with what no event can hold: some replays of it are not possible."""


class ForkWarning(TokentapeWarning):
    """A fork runs a turn without interventions that the parent's turn had."""


class ToolSourceWarning(TokentapeWarning):
    """The source of a tool is not the recorded one."""
