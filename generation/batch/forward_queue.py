"""The queue of sequences that wait for the forward of their next token.

The members of a batch run in threads, and all but one wait: for the model's lock, or for a forward.
The thread of the queue comes last. When no member has anything else to do with the model, it
forwards all that wait, together, and they get the lock back one after the other.
"""

import contextvars
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tokentape.generation import hf
from tokentape.generation.batch.row_counts import RowCounts
from tokentape.generation.hooks.model_lock import LockPlace
from tokentape.generation.hooks.model_use import (
    HookScope,
    current_scopes,
    lock_of,
    shared_forward,
)


@dataclass(frozen=True, slots=True)
class ForwardedStep:
    """The logits of a token that was forwarded, and the forward that they are from."""

    logits: torch.Tensor
    """float32 of shape (1, vocab)."""
    rows: int
    """The rows of the forward; 1 for a token that was forwarded alone."""
    row: int
    """The sequence's own row."""


@dataclass(slots=True, eq=False)
class _Request:
    """A member that waits, for the forward of a step or only until others were forwarded."""

    step: hf.SequenceStep | None
    obstacle: str
    """Why the sequence is forwarded alone; empty if it need not be."""
    row: int | None
    """Its row in the forward before."""
    scopes: tuple[HookScope, ...]
    context: contextvars.Context
    place: LockPlace
    found: ForwardedStep | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class ForwardQueue:
    """Forwards of one model for the members of a batch, computed in a thread of its own.

    Members call `forward` and `pause` while they hold the model's lock.
    """

    model: Any
    forwards: hf.SharedForwards
    row_counts: RowCounts
    threads: int
    """The threads that torch computes a forward with."""
    _requests: list[_Request] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False
    _thread: threading.Thread | None = None

    def open(self) -> threading.Thread:
        """Start the thread that forwards, and return it."""
        self._thread = threading.Thread(target=self._run, name="tokentape-forwards", daemon=True)
        self._thread.start()
        return self._thread

    def close(self) -> None:
        """End the thread when nothing waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def forward(
        self, step: hf.SequenceStep, obstacle: str, *, row: int | None = None
    ) -> ForwardedStep:
        """Forward the last token of a sequence; with an `obstacle`, alone.

        The sequence keeps its earlier `row` if it can, so that less has to be recorded. Others
        use the model meanwhile. An error of the forward is raised in all of its members.
        """
        request = self._wait(step, obstacle, row)
        if request.error is not None:
            raise request.error
        assert request.found is not None
        return request.found

    def pause(self) -> None:
        """Let others use the model who wait for it now, and forward their next tokens."""
        if self._requests or lock_of(self.model).is_wanted:
            self._wait(None)

    def _wait(
        self, step: hf.SequenceStep | None, obstacle: str = "", row: int | None = None
    ) -> _Request:
        # The thread that forwards may get the lock at once: it must find this request then.
        with self._changed:
            request = _Request(
                step=step,
                obstacle=obstacle,
                row=row,
                scopes=current_scopes(),
                context=contextvars.copy_context(),
                place=lock_of(self.model).suspend(),
            )
            self._requests.append(request)
            self._changed.notify()
        request.place.wait()
        return request

    def _run(self) -> None:
        torch.set_num_threads(self.threads)
        lock = lock_of(self.model)
        while self._is_wanted():
            lock.acquire(self, last=True)
            with self._changed:
                requests, self._requests = self._requests, []
            try:
                self._forward_all([each for each in requests if each.step is not None])
            finally:
                lock.queue(each.place for each in requests)
                lock.release()

    def _is_wanted(self) -> bool:
        """Wait for requests. Return whether there are any; without, the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._closed)
            return bool(self._requests)

    def _forward_all(self, requests: Sequence[_Request]) -> None:
        together = [each for each in requests if not each.obstacle]
        if len(together) == 1:
            together = []
        for each in requests:
            if each not in together:
                self._forward_alone(each)
        size = self.row_counts.rows_max
        for start in range(0, len(together), size):
            self._forward_together(together[start : start + size])

    def _forward_alone(self, request: _Request) -> None:
        step = request.step
        assert step is not None
        try:
            with hf.decoding(self.model):
                logits = request.context.run(step.decoder.forward, step.ids)
            request.found = ForwardedStep(logits, rows=1, row=0)
        except BaseException as error:
            request.error = error

    def _forward_together(self, requests: Sequence[_Request]) -> None:
        rows = self.row_counts.fitting(len(requests))
        places = _places([each.row for each in requests], rows)
        scopes: list[tuple[HookScope, ...]] = [()] * rows
        for place, each in zip(places, requests, strict=True):
            scopes[place] = each.scopes
        steps = [each.step for each in requests if each.step is not None]
        try:
            with shared_forward(self.model, scopes), torch.no_grad():
                found = self.forwards.forward(steps, rows=rows, places=places)
            for each, logits, row in zip(requests, found, places, strict=True):
                each.found = ForwardedStep(logits, rows=rows, row=row)
        except BaseException as error:
            for each in requests:
                each.error = error


def _places(before: Sequence[int | None], rows: int) -> list[int]:
    """Return a row for each sequence, the one that it had `before` where that is free."""
    free = set(range(rows))
    places: list[int | None] = []
    for row in before:
        places.append(row if row in free else None)
        free.discard(-1 if row is None else row)
    left = iter(sorted(free))
    return [next(left) if place is None else place for place in places]
