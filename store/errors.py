"""Errors of the place where recordings are kept."""

from tokentape.recorder import NewerRecordingError, TokentapeError


class StoreError(TokentapeError):
    """The store cannot be opened, read or written."""


class NoSuchRunError(StoreError):
    """No run, or more than one, goes by that id."""


class NewerStoreError(StoreError, NewerRecordingError):
    """The store was written by a newer version of tokentape."""


class OlderStoreError(StoreError):
    """The store has an older schema, and is to be upgraded first."""
