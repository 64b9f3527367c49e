"""Errors of stores."""

from tokentape.recorder import NewerRecordingError, RecordingError, TokentapeError


class StoreError(TokentapeError):
    """The store cannot be opened, read or written."""


class NoSuchRunError(StoreError):
    """No run has that id or name, or several ids begin with it or several runs have the name."""


class UnknownRunError(NoSuchRunError):
    """No run has that id or name."""


class NewerStoreError(StoreError, NewerRecordingError):
    """The store was written by a newer version of tokentape."""


class OlderStoreError(StoreError):
    """The store has an older schema and must be upgraded first."""


class AlteredRunError(StoreError, RecordingError):
    """A copy of a run was altered, and is not added to a store."""
