"""The base of all errors of tokentape, and the errors of a recording.

The class of an error names the culprit: a `RecordingError` blames the recording.
"""

import signal
from typing import ClassVar

from tokentape.recorder.escapes import visible_lines


class TokentapeError(Exception):
    """Base of every error that tokentape raises on purpose. Its message is one line."""

    exit_code: ClassVar[int] = 2
    """The exit code of the command line after this error."""

    def __str__(self) -> str:
        """Return the message; what cannot be seen in a recorded text or a name is escaped."""
        return visible_lines(super().__str__())


class TokentapeWarning(UserWarning):
    """Base of every warning of tokentape that a user of the command line sees, too."""

    def __str__(self) -> str:
        """Return the message, escaped as that of an error."""
        return visible_lines(super().__str__())


class Terminated(SystemExit):
    """A signal such as SIGTERM asked the process to end, and the run ended in good order.

    It is a SystemExit with the exit code 128 plus the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


class RecordingError(TokentapeError):
    """The recording is incomplete, damaged or contradicts itself."""


class NewerRecordingError(RecordingError):
    """A newer version of tokentape wrote the recording or its store."""

    exit_code = 3
