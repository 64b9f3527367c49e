"""Errors of a replay: what was asked of it cannot be done."""

from tokentape.recorder import TokentapeError


class ReplayError(TokentapeError):
    """The replay cannot be run, though the recording is sound."""


class NothingToReplayError(ReplayError):
    """The recording holds no turn with a token in it, or not the turn that was asked for."""

    exit_code = 5
