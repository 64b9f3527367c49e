"""A guard against a second use of an object while it is in use."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tokentape.recorder import TokentapeError


class SingleUse:
    """Refuses a second use, of the same thread or of another one; it does not wait.

    A second turn of one conversation would be made from a history that the first one changes.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._lock = threading.Lock()

    @property
    def is_busy(self) -> bool:
        """Whether the object is in use."""
        return self._lock.locked()

    @contextmanager
    def use(self) -> Iterator[None]:
        """Raise TokentapeError if the object is in use already."""
        if not self._lock.acquire(blocking=False):
            raise TokentapeError(
                f"a turn is running: a callback, a tool or another thread cannot use its "
                f"{self._owner}"
            )
        try:
            yield
        finally:
            self._lock.release()
