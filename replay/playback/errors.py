"""Errors and warnings of a playback."""

from typing import TYPE_CHECKING

from tokentape.recorder.errors import TokentapeWarning
from tokentape.replay.results.errors import ReplayError

if TYPE_CHECKING:
    from tokentape.replay.playback.differences import PlaybackDifference


class PlaybackMismatchError(ReplayError, AssertionError):
    """The application asked for something else than the tape has.

    It is an AssertionError, too: the test fails, whatever the application does with exceptions of
    its own. Its text names turn, round and message, and the first token that differs.
    """

    def __init__(self, message: str, difference: "PlaybackDifference | None" = None) -> None:
        super().__init__(message)
        self.difference = difference
        """What differs, as data; None where recorded turns were not played."""


class PlaybackWarning(TokentapeWarning):
    """The application asked for something else than the tape has, and got the recorded reply."""
