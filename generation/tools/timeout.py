"""Call a function in a thread, with a time limit."""

import atexit
import contextvars
import ctypes
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

import torch

Answer = TypeVar("Answer")

_WAIT_S = 3.0
_ABANDONED: dict[threading.Event, threading.Thread] = {}
"""By their ends: the threads of functions whose result is no longer awaited."""


def run_with_timeout(
    seconds_max: float,
    function: Callable[[], Answer],
    on_timeout: Callable[[FrameType | None], Answer],
) -> Answer:
    """Return the function's result, or that of `on_timeout` after more than `seconds_max`.

    The function must not raise. It runs in a new daemon thread, with the caller's context variables
    and without gradients (torch keeps that setting per thread). Python cannot stop a thread: after
    a timeout it runs on, and its result is dropped. `on_timeout` is called with its current frame,
    None if it has just ended. Ctrl-C interrupts the wait.
    """
    answers: list[Answer] = []
    # `Thread.join` takes a thread for ended when a signal interrupts it, before Python 3.13.
    ended = threading.Event()

    def run() -> None:
        try:
            with torch.no_grad():
                answers.append(function())
        finally:
            ended.set()
            _ABANDONED.pop(ended, None)

    # A daemon thread, so that a function that hangs does not keep the process alive.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    try:
        thread.start()
        ended.wait(seconds_max)
    finally:
        if not ended.is_set():
            _ABANDONED[ended] = thread
    return answers.pop() if answers else on_timeout(sys._current_frames().get(thread.ident or 0))


def end_abandoned(seconds_max: float = _WAIT_S) -> bool:
    """End functions that run on after a timeout or Ctrl-C; return whether all have ended.

    Each gets a SystemExit after its current call into C. For the end of the process: Python would
    end the threads within such a call, and C++ code, as that of torch, then aborts the process.
    """
    left = [(ended, each) for ended, each in _ABANDONED.copy().items() if not ended.is_set()]
    for _, thread in left:
        ident, stop = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, stop)
    until = time.monotonic() + seconds_max
    return all(ended.wait(max(0.0, until - time.monotonic())) for ended, _ in left)


atexit.register(end_abandoned)
