"""Call a function in a thread, with a time limit."""

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

import torch

Answer = TypeVar("Answer")


def run_with_timeout(seconds_max: float, function: Callable[[], Answer]) -> Answer | None:
    """Return the function's result, or None if it takes longer than `seconds_max`.

    The function must not raise. It runs in a new daemon thread, with the caller's context variables
    and without gradients (torch keeps that setting per thread). Python cannot stop a thread: after
    a timeout it runs on, and its result is dropped. Ctrl-C interrupts the wait.
    """
    answers: list[Answer] = []

    def run() -> None:
        with torch.no_grad():
            answers.append(function())

    # A daemon thread, so that a function that hangs does not keep the process alive.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(seconds_max)
    return answers.pop() if answers else None
