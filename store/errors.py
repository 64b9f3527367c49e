"""Errors of stores."""

from tokentape.recorder import NewerRecordingError, RecordingError, TokentapeError


class StoreError(TokentapeError):
    """The store cannot be opened, read or written."""


class LostConnectionError(StoreError):
    """The connection to the server of a store broke, or none could be made."""


class MissingLibraryError(StoreError, ImportError):
    """A library of an extra is not installed."""


class NoSuchRunError(StoreError):
    """No run has that id or name, or several ids begin with it or several runs have the name."""


class UnknownRunError(NoSuchRunError):
    """No run has that id or name."""


class AmbiguousRunError(NoSuchRunError):
    """A name or the beginning of an id means several runs, which the text lists."""

    def __init__(self, message: str, *candidates: str) -> None:
        super().__init__(message, *candidates)
        self.message = message
        self.candidates = candidates
        """A line for each run: id, time, name, model and status."""

    def __str__(self) -> str:
        return "\n  ".join([self.message, *self.candidates])


class NewerStoreError(StoreError, NewerRecordingError):
    """The store was written by a newer version of tokentape."""


class OlderStoreError(StoreError):
    """The store has an older schema and must be upgraded first."""


class AlteredRunError(StoreError, RecordingError):
    """A copy of a run was altered, and is not added to a store."""
