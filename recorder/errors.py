"""Errors of a recording. Blame is in the type: here it is the recording that is at fault."""

from typing import ClassVar


class TokentapeError(Exception):
    """Base of every error that tokentape raises on purpose; the message fits one line.

    `exit_code` is what the command line exits with.
    """

    exit_code: ClassVar[int] = 2


class RecordingError(TokentapeError):
    """The recording cannot be used: it is incomplete, contradicts itself or is damaged."""


class NewerRecordingError(RecordingError):
    """The recording, or the store it is in, was written by a newer version of tokentape."""

    exit_code = 3
