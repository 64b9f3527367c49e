"""A function that runs in a batch, and its result."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tokentape.recorder import TokentapeError

Result = TypeVar("Result")


class BatchEnded(TokentapeError):
    """A batch ended before this run did; the run can be resumed."""


@dataclass(slots=True, eq=False)
class Job(Generic[Result]):
    """A function that runs in a thread of a batch, or waits for one."""

    function: Callable[..., Result]
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None
    """The exception of the function, if it raised one."""
    is_read: bool = False
    """Whether `result` was asked for."""
    _answers: list[Result] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def is_done(self) -> bool:
        """Whether the function has returned or raised."""
        return self._ended.is_set()

    def result(self) -> Result:
        """Wait for the function. Return its result, or raise its exception."""
        self._ended.wait()
        self.is_read = True
        if self.error is not None:
            raise self.error
        return self._answers[0]

    def wait(self) -> None:
        """Wait until the function has ended."""
        self._ended.wait()

    def run(self) -> None:
        """Call the function and keep its result."""
        try:
            self._answers.append(self.function(*self.arguments, **self.keywords))
        except BaseException as error:
            self.error = error
        finally:
            self._ended.set()

    def cancel(self, error: BaseException) -> None:
        """End with an error, without having run."""
        self.error = error
        self._ended.set()
