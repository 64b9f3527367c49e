"""Ctrl-C, SIGTERM and SIGHUP that end a run between two tokens, with no event half recorded."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tokentape.recorder.errors import Terminated

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_REPEATED_S = 1.0
"""A terminal that closes and `timeout` send their signal twice at once: that is one request."""


class _Ending:
    """What SIGTERM and SIGHUP do in this process. Signals have one handler for all runs."""

    def __init__(self) -> None:
        self.users = 0
        """Contexts of `ended_by_signals` that are active."""
        self.holds = 0
        """Contexts in which a signal has to wait."""
        self.pending: int | None = None
        """The signal that waits."""
        self.raised: Terminated | None = None
        """The last exception that a signal raised."""
        self._first_at: float | None = None

    def acquire(self) -> None:
        """Handle the signals that would end the process, not those ignored or handled already."""
        if not self.users:
            self.holds, self.pending, self.raised, self._first_at = 0, None, None, None
        self.users += 1
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._handle)

    def release(self) -> None:
        """Let the signals end the process again once no context is left."""
        self.users -= 1
        if self.users or threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL)

    def raise_pending(self) -> None:
        """Raise Terminated if a signal waits."""
        if self.pending is not None:
            number, self.pending = self.pending, None
            self.raised = Terminated(number)
            raise self.raised

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first_at is not None and now - self._first_at < _REPEATED_S:
            return
        if self._first_at is not None or not self.users:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._first_at = now
        self.pending = number
        if not self.holds:
            self.raise_pending()


_ENDING = _Ending()


def last_termination() -> Terminated | None:
    """Return the exception that a signal raised since the first of the active runs began."""
    return _ENDING.raised


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within this context SIGTERM and SIGHUP raise Terminated; a second one kills the process.

    Only in the main thread, and only for a signal that has no handler and is not ignored, as nohup
    ignores SIGHUP. The default is restored afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _ENDING.acquire()
    try:
        yield
    finally:
        _ENDING.release()


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back a signal of `ended_by_signals` until the block ends, then raise Terminated."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _ENDING.holds += 1
    try:
        yield
    finally:
        _ENDING.holds -= 1
        if not _ENDING.holds:
            _ENDING.raise_pending()


@contextmanager
def interrupted_between_tokens() -> Iterator[Callable[[], None]]:
    """Hold back the first Ctrl-C until the yielded function is called, or until the block ends.

    The yielded function raises KeyboardInterrupt if there was one. A second Ctrl-C raises at once.
    SIGTERM and SIGHUP are held back, too, within `ended_by_signals`; they raise Terminated. Only in
    the main thread, and Ctrl-C only with Python's own signal handler; otherwise nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    with signals_held(), _ctrl_c_held() as raise_if_interrupted:

        def raise_if_signalled() -> None:
            _ENDING.raise_pending()
            raise_if_interrupted()

        yield raise_if_signalled


@contextmanager
def _ctrl_c_held() -> Iterator[Callable[[], None]]:
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: None
        return
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    def raise_if_interrupted() -> None:
        if interrupted:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    raise_if_interrupted()


@contextmanager
def interrupts_call(react: Callable[[], None]) -> Iterator[None]:
    """Within this context, call `react` at each Ctrl-C; it may raise KeyboardInterrupt."""
    before = signal.signal(signal.SIGINT, lambda number, frame: react())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
