"""Many investigations at once, in threads that share the forwards of their model."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from tokentape.generation.batch.forward_guard import guarded_forwards
from tokentape.generation.batch.forward_queue import ForwardQueue
from tokentape.generation.batch.job import BatchEnded, Job
from tokentape.generation.batch.member import Member, StopRequest, as_member
from tokentape.generation.batch.shared_prefixes import SharedPrefixes
from tokentape.generation.batch.sharing import Sharing, probe_sharing
from tokentape.generation.hooks.model_use import lock_of
from tokentape.generation.interrupts import ended_by_signals
from tokentape.generation.models.loading import LoadedModel
from tokentape.recorder import TokentapeError
from tokentape.recorder.errors import Terminated
from tokentape.recorder.plain_values import plain_whole

Result = TypeVar("Result")


class Batch:
    """Runs functions at once, each in a thread, and forwards the tokens of their runs together.

    Decoding reads all weights of a model for one token; a batch reads them once for the next token
    of every run. A system prompt that several runs have is computed once. Each run keeps its own
    cache, random stream, tools and recording, and in float32 gets the tokens that it gets alone.
    In 16 bits, tokens may differ from those alone: rounding depends on the number of sequences in a
    forward, which is recorded, so that `retrace` computes every bit again from the one run.

    An `Investigation` or a `ManualGenerator` that a function uses joins by itself. While one waits
    for a tool, the other runs continue. A function must not change the model or its tokenizer,
    torch's number of threads or its flags.

    Leaving the block waits for all functions, and raises their exceptions, except those that
    `Job.result` has raised.
    Ctrl-C, SIGTERM and an exception in the block end each run after its next token, so that all
    can be resumed; functions that have not begun do not run.

    Example:
        >>> import tokentape as tt
        >>> def probe(seed):
        ...     with tt.Investigation(
        ...         lm, store=store, name=f"seed {seed}", system_prompt="Be brief.", seed=seed
        ...     ) as run:
        ...         return run.chat("Hello", max_new_tokens=3).text
        >>> with tt.Batch(lm, size=2) as batch:
        ...     jobs = [batch.start(probe, seed) for seed in (1, 2, 3)]
        >>> len([job.result() for job in jobs])
        3
    """

    def __init__(self, lm: LoadedModel, *, size: int = 16) -> None:
        """Prepare a batch in which at most `size` functions run at once."""
        self._lm = lm
        self._size = plain_whole(size)
        if self._size < 1:
            raise TokentapeError(f"a batch has room for at least one run: size={size!r}")
        self._stop = StopRequest()
        self._lock = threading.Lock()
        self._jobs: dict[Job[Any], None] = {}
        """In the order of their starts. A batch that is open for days must not keep every job: left
        out are those that have returned, and those that failed when they are read."""
        self._waiting: deque[Job[Any]] = deque()
        self._started = self._running = 0
        self._member: Member | None = None
        self._open = ExitStack()
        self.sharing: Sharing | None = None
        """Whether the runs share forwards, and why not; None before the batch begins."""

    def __enter__(self) -> Self:
        """Begin the batch. Raise TokentapeError if another one uses the model."""
        model = self._lm.model
        if lock_of(model).is_shared:
            raise TokentapeError("another batch uses this model: start the functions in that one")
        sharing = self.sharing = probe_sharing(model, self._size)
        queue = ForwardQueue(
            model, sharing.forwards, sharing.row_counts, threads=torch.get_num_threads()
        )
        with self._open as opened:
            opened.enter_context(ended_by_signals())
            opened.enter_context(self._lm.identity.held())
            opened.callback(queue.close)
            opened.enter_context(guarded_forwards(model, queue.open()))
            self._open = opened.pop_all()
        prefixes = SharedPrefixes(queue.pause)
        self._member = Member(queue, self._stop, self.sharing.obstacle, prefixes)
        return self

    def start(
        self, function: Callable[..., Result], *arguments: Any, **keywords: Any
    ) -> Job[Result]:
        """Run a function in a thread, as soon as there is room for it. Return its job at once.

        In a batch that ends, it does not run. Raise TokentapeError outside of the `with` block.
        """
        if self._member is None:
            raise TokentapeError("a batch runs functions only within its `with` block")
        job = Job(function, arguments, keywords)
        with self._lock:
            if self._stop.errors:
                job.cancel(self._stop.errors[0])
                return job
            self._jobs[job] = None
            self._started += 1
            self._waiting.append(job)
            self._start_waiting(self._member)
        return job

    def _start_waiting(self, member: Member) -> None:
        while self._waiting and self._running < self._size and not self._stop.errors:
            job = self._waiting.popleft()
            self._running += 1
            # A daemon thread, so that a function that hangs does not keep the process alive.
            threading.Thread(target=self._run, args=(job, member), daemon=True).start()

    def _run(self, job: Job[Any], member: Member) -> None:
        torch.set_num_threads(member.queue.threads)
        with as_member(member):
            job.run()
        with self._lock:
            self._running -= 1
            if job.error is None:
                del self._jobs[job]
            else:
                known = [each for each in self._jobs if each.is_done and each.is_read]
                for each in known:
                    del self._jobs[each]
            self._start_waiting(member)

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._open:
            try:
                if error is not None:
                    self._end_all(error)
                self._wait()
            except (KeyboardInterrupt, Terminated) as interrupt:
                if error is not None:
                    raise
                self._end_all(interrupt)
                self._wait()
                raise
            finally:
                self._member = None
        if error is None:
            self._raise_errors()

    def _wait(self) -> None:
        # A function may start further ones.
        while running := [each for each in self._left() if not each.is_done]:
            for job in running:
                job.wait()

    def _end_all(self, error: BaseException) -> None:
        """End the runs after their next tokens; do not run functions that have not begun."""
        if not isinstance(error, KeyboardInterrupt | Terminated):
            error = BatchEnded(f"the batch of this run ended ({type(error).__name__}): resume it")
        with self._lock:
            self._stop.errors.append(error)
            while self._waiting:
                self._waiting.popleft().cancel(error)

    def _left(self) -> list[Job[Any]]:
        """Return the functions that have not returned: they raised, run or wait."""
        with self._lock:
            return list(self._jobs)

    def _raise_errors(self) -> None:
        """Raise the exceptions of the functions, except those that `Job.result` has raised."""
        jobs = self._left()
        errors = [each.error for each in jobs if each.error is not None and not each.is_read]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            text = f"{len(errors)} of {self._started} functions of the batch raised"
            raise BaseExceptionGroup(text, errors)
