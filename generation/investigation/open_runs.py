"""Runs of this process that have begun and not ended, and their end when the interpreter exits."""

import atexit
import os
import warnings
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from tokentape.generation.engine.single_use import SingleUse
from tokentape.generation.interrupts import last_termination, signals_held
from tokentape.recorder import EventLog, Recorder
from tokentape.recorder.errors import TokentapeWarning


class UnfinishedRunWarning(TokentapeWarning):
    """The end of a run could not be recorded; the run can be resumed."""


@runtime_checkable
class ClosingLog(Protocol):
    """An event log that can be closed, and then ends the runs that are registered with it."""

    def at_close(self, run: "OpenRun") -> None:
        """Call `run.end_quietly()` before the log is closed."""

    def close(self) -> None:
        """Close the log."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class OpenRun:
    """A run that has begun: all that its end needs. It refers to no model and to no cache.

    A process that was forked from the one that records does not end the run.
    """

    recorder: Recorder
    log: EventLog
    use: SingleUse
    """In use while a turn runs."""
    signals: ExitStack
    """Handles signals until the run ends."""
    interrupt: BaseException | None = None
    """The Ctrl-C or the signal that cut off the last turn."""
    ended: bool = False
    pid: int = field(default_factory=os.getpid)

    @property
    def is_of_this_process(self) -> bool:
        return self.pid == os.getpid()

    def end(self, error: BaseException | None) -> None:
        """Record the end of the run. A signal that comes meanwhile is raised afterwards."""
        if self.ended or not self.is_of_this_process:
            return
        self.ended = True
        _OPEN.discard(self)
        with self.signals, signals_held():
            self.recorder.__exit__(type(error) if error else None, error, None)

    def end_quietly(self) -> None:
        """Record the end of the run, and warn if that is impossible. A running turn is left."""
        if self.use.is_busy:
            return
        try:
            self.end(self.interrupt or last_termination())
        except Exception as error:
            run_id = self.recorder.run_id
            text = f"the end of run {run_id} was not recorded ({error}): `resume` continues it"
            warnings.warn(text, UnfinishedRunWarning, stacklevel=2)


_OPEN: set[OpenRun] = set()
# Runs whose investigation was collected as garbage. Collection may come while an event is being
# stored, so their ends are recorded later.
_DROPPED: deque[OpenRun] = deque()


def add_open_run(run: OpenRun) -> None:
    """Let a run end when its log is closed, or at the latest when the interpreter exits.

    Runs whose investigation no longer exists end now.
    """
    _end_dropped()
    _OPEN.add(run)
    if isinstance(run.log, ClosingLog):
        run.log.at_close(run)


def drop(run: OpenRun) -> None:
    """Let a run end when the next one begins, or when the interpreter exits."""
    _DROPPED.append(run)


def _end_dropped() -> None:
    while _DROPPED:
        _DROPPED.popleft().end_quietly()


@atexit.register
def _end_all() -> None:
    """End the runs of this process in the order in which they began, then close their logs."""
    runs = sorted(
        (each for each in _OPEN if each.is_of_this_process), key=lambda each: each.recorder.run_id
    )
    for run in runs:
        run.end_quietly()
    left = [each.log for each in runs if not each.ended]
    for log in {id(each.log): each.log for each in runs}.values():
        if isinstance(log, ClosingLog) and log not in left:
            log.close()
