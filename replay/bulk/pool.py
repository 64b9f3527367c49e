"""Verification of many runs by several processes.

Each process loads the model by itself. Weights of safetensors files are mapped into memory, so that
all processes read the same pages of the file.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Self

from tokentape.replay.bulk.sources import BulkOutcome, BulkSettings, RunSource, failed
from tokentape.replay.results.errors import ReplayError

_BATCH_MIN, _BATCH_MAX = 8, 64
"""Sources that a process gets at once: with fewer, forwards are not full."""
_BATCHES_EACH = 4
"""Batches of a process, if there are few sources: the last one should not be waited for long."""
_DEATHS_MAX = 8
"""After that many deaths the machine is at fault, not a recording."""
_GOODBYE_S = 5.0


def verify_in_processes(
    sources: Sequence[RunSource], settings: BulkSettings, jobs: int
) -> Iterator[tuple[int, list[BulkOutcome]]]:
    """Verify the runs of sources in `jobs` processes; yield each source's index and outcomes.

    A source on which a process dies is tried again alone; if that process dies too, its outcome
    says so. The processes end with the iteration, also if it is left early.
    """
    with _Pool(settings, min(jobs, len(sources))) as pool:
        yield from pool.verify(sources)


def batches(count: int, jobs: int) -> Iterator[range]:
    """Yield ranges of the indices of `count` sources, for `jobs` processes."""
    balanced = count if jobs == 1 else max(_BATCH_MIN, count // (jobs * _BATCHES_EACH))
    size = max(1, min(_BATCH_MAX, balanced, -(-count // jobs)))
    return (range(start, min(start + size, count)) for start in range(0, count, size))


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, the connection to it, and what it works on."""

    process: BaseProcess
    connection: Connection
    batch: Sequence[int] = ()


class _Pool:
    """Processes that verify; as a context, it ends them."""

    def __init__(self, settings: BulkSettings, jobs: int) -> None:
        self._settings = settings
        self._jobs = jobs
        self._threads = max(1, cores() // jobs)
        self._workers: list[_Worker] = []
        self._deaths = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End all processes at once."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_GOODBYE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()

    def verify(self, sources: Sequence[RunSource]) -> Iterator[tuple[int, list[BulkOutcome]]]:
        """Yield the index and the outcomes of each source."""
        due: deque[Sequence[int]] = deque(batches(len(sources), self._jobs))
        while due or self._workers:
            idle = [each for each in self._workers if not each.batch]
            while due and (idle or len(self._workers) < self._jobs):
                worker = idle.pop() if idle else self._start()
                worker.batch = due.popleft()
                self._send(worker, [sources[index] for index in worker.batch])
            self._end(idle)
            connections = {each.connection: each for each in self._workers}
            for ready in wait(list(connections)) if connections else ():
                worker = connections[ready]  # type: ignore[index]
                found = _received(worker)
                if found is not None:
                    yield from zip(worker.batch, found, strict=True)
                    worker.batch = ()
                    continue
                yield from self._after_death(worker, sources, due)

    def _after_death(
        self, worker: _Worker, sources: Sequence[RunSource], due: deque[Sequence[int]]
    ) -> Iterator[tuple[int, list[BulkOutcome]]]:
        """Try the sources of a dead process again, each alone; yield that of a single one."""
        self._workers.remove(worker)
        worker.process.join(_GOODBYE_S)
        worker.connection.close()
        self._deaths += 1
        if len(worker.batch) == 1:
            due_again: Sequence[int] = ()
            lost, reason = list(worker.batch), _death(worker.process)
        else:
            due_again, lost, reason = worker.batch, [], ""
        if self._deaths >= _DEATHS_MAX:
            lost += [*due_again, *(index for batch in due for index in batch)]
            due_again = ()
            due.clear()
            reason = f"{_death(worker.process)}, as {_DEATHS_MAX - 1} others did before"
        due.extendleft([index] for index in reversed(due_again))
        for index in lost:
            yield index, [failed(sources[index], ReplayError(reason))]

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=serve, args=(theirs, self._settings, self._threads), daemon=True
        )
        with _interrupts_blocked():
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _send(self, worker: _Worker, sources: list[RunSource]) -> None:
        with suppress(OSError):  # of a dead process, which reading finds
            worker.connection.send(sources)

    def _end(self, idle: Sequence[_Worker]) -> None:
        """End processes for which nothing is left to do."""
        for worker in idle:
            self._workers.remove(worker)
            worker.connection.close()
            worker.process.join(_GOODBYE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _received(worker: _Worker) -> list[list[BulkOutcome]] | None:
    """Return the outcomes that a process sent; None if it died."""
    try:
        found: list[list[BulkOutcome]] = worker.connection.recv()
    except (EOFError, OSError):
        return None
    return found


def _death(process: BaseProcess) -> str:
    code = process.exitcode
    how = f"ended with exit code {code}"
    if code is None:
        how = "closed its connection"
    elif code < 0:
        how = f"was killed by {_signal_name(-code)}"
        how += " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"the process that verified it {how}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back within this context; processes that start in it never see it.

    Ctrl-C reaches every process of a terminal; the one that started the others ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(connection: Connection, settings: BulkSettings, threads: int) -> None:
    """Verify what the connection asks for until it is closed: the work of one process."""
    # Ctrl-C is for the process that started this one, which ends it; Windows cannot block it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print must not mix with the output of the command.
    os.dup2(2, 1)
    import torch

    from tokentape.replay.bulk.verifier import BulkVerifier

    torch.set_num_threads(min(threads, torch.get_num_threads()))
    verifier = BulkVerifier(settings)
    with suppress(EOFError, OSError):
        while True:
            connection.send(verifier.verify(connection.recv()))
