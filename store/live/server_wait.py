"""The time that a writer waits for a server that cannot be reached, and what it says meanwhile."""

import os
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress

from tokentape.recorder.errors import TokentapeWarning
from tokentape.recorder.short_forms import counted
from tokentape.store.errors import StoreError

SETTING = "TOKENTAPE_DATABASE_WAIT"
"""The environment variable that says how many seconds a writer waits for a server."""

_WAIT_S = 600
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.1, 5.0


class UnreachableServerWarning(TokentapeWarning):
    """A writer waits for its server, or goes on after it has waited."""


def wait_limit_s() -> int:
    """Return how long a writer waits for its server. Raise StoreError for another setting."""
    given = os.environ.get(SETTING, "").strip()
    if not given:
        return _WAIT_S
    if not (given.isascii() and given.isdigit()):
        raise StoreError(f"{SETTING} must be a whole number of seconds, not {given!r}")
    return int(given)


class ServerWait:
    """Attempts to reach a server again, with growing pauses, until a limit."""

    def __init__(self, where: str, limit_s: int) -> None:
        self._where = where
        self._limit_s = limit_s
        self._began_s = time.monotonic()
        self._since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._told: set[str] = set()
        # The caller's random state is never touched.
        self._random = random.Random()

    def attempts(self) -> Iterator[None]:
        """Yield for each attempt, the first at once."""
        pause_s = _FIRST_PAUSE_S
        yield
        while (left_s := self._began_s + self._limit_s - time.monotonic()) > 0:
            # Writers of one server must not all come back at the same moment.
            time.sleep(min(left_s, pause_s * self._random.uniform(0.5, 1)))
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)
            yield

    def failed(self, reason: str) -> None:
        """Say that the writer waits, and why; once for each reason."""
        if self._limit_s and reason not in self._told:
            self._told.add(reason)
            self._warn(
                f"PostgreSQL at {self._where} is not reachable: waiting since {self._since} for at "
                f"most {counted(self._limit_s, 'second')}; {reason}"
            )

    def ended(self, written: int) -> None:
        """Say that the writer goes on, if it said that it waits."""
        if self._told:
            waited_s = time.monotonic() - self._began_s
            self._warn(
                f"PostgreSQL at {self._where} is reachable again after {waited_s:.0f} s; it was "
                f"given {counted(written, 'event')} that it did not have"
            )

    def _warn(self, text: str) -> None:
        # With warnings as errors, this one would end the recording.
        with suppress(UnreachableServerWarning):
            warnings.warn(UnreachableServerWarning(text), stacklevel=2)
