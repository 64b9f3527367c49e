"""Errors of replays."""

from tokentape.recorder import TokentapeError


class ReplayError(TokentapeError):
    """The replay cannot be run, although the recording is sound."""


class NothingToReplayError(ReplayError):
    """The recording has no turn with tokens, or not the requested turn."""

    exit_code = 5
