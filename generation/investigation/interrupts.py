"""Ctrl-C that takes effect between two tokens, so that no event is left half recorded."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupted_between_tokens() -> Iterator[Callable[[], None]]:
    """Hold back the first Ctrl-C until the yielded function is called, or until the block ends.

    The yielded function raises KeyboardInterrupt if there was one. A second Ctrl-C raises at once.
    Only in the main thread and with Python's own signal handler; otherwise nothing is changed.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
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
