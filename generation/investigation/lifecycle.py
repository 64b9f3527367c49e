"""The beginning and the end of a recorded conversation."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from tokentape.generation.engine.single_use import SingleUse
from tokentape.generation.interrupts import ended_by_signals
from tokentape.generation.investigation.open_runs import OpenRun, add_open_run, drop
from tokentape.recorder import EventLog, Recorder, TokentapeError
from tokentape.recorder.errors import Terminated
from tokentape.recorder.short_forms import counted, excerpt, html_facts, quoted, short_repr


class RunLifecycle(ABC):
    """A run that begins once and ends once, by `start` and `finish` or as a context manager."""

    def __init__(self, recorder: Recorder, log: EventLog, name: str) -> None:
        self._recorder = recorder
        self._log = log
        self._name = name
        self._use = SingleUse("investigation")
        self._opened: OpenRun | None = None

    @property
    def run_id(self) -> str:
        """The id of the run, also before it begins."""
        return self._recorder.run_id

    @property
    def is_active(self) -> bool:
        """Whether the run has begun and has not ended."""
        return self._opened is not None and not self._opened.ended

    @property
    def _state(self) -> str:
        if self.is_active:
            return "active"
        return "not started" if self._opened is None else "ended"

    def start(self) -> Self:
        """Begin the run, and return it. `chat` and `with` do so, too; a second call does nothing.

        Without `with`, `finish` ends the run. So does closing its store, the end of the script and
        that of the kernel of a notebook. A run whose last reference is deleted ends when the next
        one starts. An exception does not end it: `chat` can be called again. A killed process
        leaves a run that `resume` continues.

        Raise TokentapeError for a run that has ended.

        Example:
            >>> import tokentape as tt
            >>> run = tt.Investigation(lm, store=store, name="probe", system_prompt="Be brief.")
            >>> run.start().is_active
            True
            >>> run.finish()
            >>> store.recording(run.run_id).newest_turn()
            0
        """
        with self._use.use():
            self._start()
        return self

    def _start(self) -> None:
        if self.is_active:
            self._check_process()
            return
        if self._opened is not None or self._recorder.ended:
            raise TokentapeError(
                f"run {self.run_id} has ended: to continue it, begin with "
                f'run = tt.Investigation.resume(store, "{self.run_id}", lm)'
            )
        opened = OpenRun(self._recorder, self._log, self._use, ExitStack())
        opened.signals.enter_context(ended_by_signals())
        try:
            self._begin()
        except BaseException as error:
            opened.end(error)
            raise
        self._opened = opened
        add_open_run(opened)
        weakref.finalize(self, drop, opened).atexit = False

    def finish(self) -> None:
        """End the run. Before it has begun, and after it has ended, do nothing.

        Raise TokentapeError in a callback or a tool of a turn.
        """
        if self._opened is not None and self._opened.is_of_this_process and self.is_active:
            with self._use.use():
                self._finish(self._opened, None)

    def _finish(self, opened: OpenRun, error: BaseException | None) -> None:
        try:
            if error is None:
                self._before_end()
        finally:
            opened.end(error)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Within this context, run a turn of the run, which begins if it has not."""
        with self._use.use():
            self._start()
            assert self._opened is not None
            self._opened.interrupt = None
            try:
                yield
            except (KeyboardInterrupt, Terminated) as error:
                self._opened.interrupt = error
                raise

    def _check_process(self) -> None:
        if self._opened is not None and not self._opened.is_of_this_process:
            raise TokentapeError(
                f"run {self.run_id} is recorded by process {self._opened.pid}, from which this one "
                "was forked: begin a run of your own here"
            )

    @abstractmethod
    def _facts(self) -> list[tuple[str, object]]:
        """Return names and values to show of the run."""

    def __repr__(self) -> str:
        facts = dict(self._facts())
        turns = f"{counted(int(str(facts['turns'])), 'turn')},"
        name = f"{quoted(self._name)}:"
        model = f"{excerpt(str(facts['model']))},"
        return short_repr(self, name, f"{self._state},", turns, model, self.run_id)

    def _repr_html_(self) -> str:
        facts = [("run", self.run_id), ("state", self._state), *self._facts()]
        return html_facts(f"Investigation {self._name}", [*facts, ("store", repr(self._log))])

    @abstractmethod
    def _begin(self) -> None:
        """Record the beginning of the run, or that it continues."""

    @abstractmethod
    def _before_end(self) -> None:
        """Record what must precede the end of a run."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._opened is not None and self._opened.is_of_this_process and self.is_active:
            self._finish(self._opened, error)
