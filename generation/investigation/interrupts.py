"""Ctrl-C that waits for the token under way, so that nothing is left half done."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupted_between_tokens() -> Iterator[Callable[[], None]]:
    """Yields what is to be called where the block can be left: it raises KeyboardInterrupt there.

    A second Ctrl-C does not wait. Only in the main thread, and where nobody else handles it; the
    end of the block is such a place, too.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: None
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def leave_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, ask)
    try:
        yield leave_if_asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    leave_if_asked()
