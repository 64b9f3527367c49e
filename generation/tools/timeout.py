"""Foreign code is run apart, and left behind when it does not answer."""

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

import torch

Answer = TypeVar("Answer")


def run_with_timeout(seconds_max: float, function: Callable[[], Answer]) -> Answer | None:
    """What the function returns, or None where it does not return in time; it must not raise.

    It runs in a thread of its own, with the caller's context variables and without gradients:
    torch keeps that setting per thread. Nobody can end a thread, so one that does not answer is
    left behind; its answer is dropped if it comes. Ctrl-C interrupts the waiting.
    """
    answers: list[Answer] = []

    def run() -> None:
        with torch.no_grad():
            answers.append(function())

    # A daemon: a function that hangs must not keep the process from ending.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(seconds_max)
    return answers.pop() if answers else None
