"""A batch in plain threads, for tests of what starts jobs in one."""

import importlib.util
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

MODULE = "tokentape.generation.batch"


class ThreadedJob:
    """A function that runs in a thread of its own."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._error: BaseException | None = None
        self._value: Any = None
        self._thread = threading.Thread(target=self._run, args=(function, arguments))
        self._thread.start()

    def _run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            self._value = function(*arguments)
        except BaseException as error:
            self._error = error

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(60)
        assert self.done(), "the threads wait for each other"
        if self._error is not None:
            raise self._error
        return self._value


class ThreadedBatch:
    """A batch whose members take turns: a model is used by one thread at a time."""

    sizes: tuple[int, ...] = ()

    def __init__(self, lm: Any, *, size: int) -> None:
        type(self).sizes += (size,)
        self._jobs: list[ThreadedJob] = []

    def start(self, function: Callable[..., Any], *arguments: Any) -> ThreadedJob:
        self._jobs.append(ThreadedJob(function, arguments))
        return self._jobs[-1]

    def __enter__(self) -> "ThreadedBatch":
        return self

    def __exit__(self, *error: object) -> None:
        for job in self._jobs:
            job._thread.join(60)


def threaded_batch(patch: pytest.MonkeyPatch) -> type[ThreadedBatch]:
    """Put batches in plain threads in the place of those that decode together."""
    module = ModuleType(MODULE)
    batch = type("ThreadedBatch", (ThreadedBatch,), {"sizes": ()})
    module.Batch = batch  # type: ignore[attr-defined]
    patch.setitem(sys.modules, MODULE, module)
    return batch


def has_batches() -> bool:
    """Return whether this tokentape can decode several runs in one forward."""
    return importlib.util.find_spec(MODULE) is not None
