"""The progress of several runs: a bar over all, and a line for each that is active."""

import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.progress import Progress

from tokentape import output
from tokentape.recorder.short_forms import counted, excerpt
from tokentape.recorder.turn_progress import TurnProgress
from tokentape.screen import err, stdout_on_stderr
from tokentape.turns_bar import PROMPT, TurnsBar

if TYPE_CHECKING:
    from tokentape.commands.investigations import RunsBegun
    from tokentape.generation.plans import PlannedRun, PlanResult, RunUpdate

_NAME_CHARS = 20


class RunsBar:
    """Counts the tokens and turns of several runs; see `runs_bar`.

    Pass `update` as the progress of the runs, and `token` as their callback.
    """

    def __init__(
        self,
        bar: Progress,
        planned: "Sequence[PlannedRun]",
        begun: "RunsBegun",
        *,
        resumed: bool = False,
    ) -> None:
        self._bar = bar
        self._begun = begun
        self._waiting = Counter(each.name for each in planned if not resumed)
        self._active: dict[int, TurnsBar] = {}
        self._tokens = 0
        self._lock = threading.Lock()
        """Runs of a batch have threads of their own."""
        self._began_at = time.perf_counter()
        self._all = bar.add_task("runs", total=len(planned), tokens="", cache="")

    def update(self, update: "RunUpdate") -> None:
        """Show that a run began, had a turn, or ended."""
        run = id(update.run)
        if update.stage == "began":
            self._begun(update.run_id)
            self._waiting[update.run.name] -= 1
            self._active[run] = self._line(update)
        elif update.stage == "turn" and update.reply is not None:
            self._active[run].turn(update.reply)
        elif update.result is not None:
            self._end(update.result, self._active.pop(run, None))
        self._begun.left = self._left()

    def token(self, run: "PlannedRun", token_id: int, logits: Any) -> None:
        """Count a token of a run, and update the speeds."""
        with self._lock:
            self._tokens += 1
        self._active[id(run)].token(token_id, logits)
        seconds = time.perf_counter() - self._began_at
        speed = f"{self._tokens:,} tokens, {self._tokens / max(seconds, 1e-9):.1f} tokens/s"
        self._bar.update(self._all, tokens=speed)

    def _line(self, update: "RunUpdate") -> TurnsBar:
        plan, done = update.run.plan, update.turns_done
        total = None if plan is None else len(plan.turns())
        name = excerpt(update.run.name, _NAME_CHARS)
        task = self._bar.add_task(name, total=total, completed=done, tokens=PROMPT, cache="")
        return TurnsBar(
            self._bar,
            task,
            TurnProgress(total),
            done=done,
            most_tokens=0 if plan is None else plan.limits.max_new_tokens,
            shows_cache=False,
        )

    def _end(self, result: "PlanResult", line: TurnsBar | None) -> None:
        if line is None:  # it could not be set up
            self._waiting[result.name] -= 1
        else:
            line.remove()
        if result.error is None:
            self._begun.ended(result.run_id)
        self._bar.update(self._all, advance=1)
        if not err.is_terminal:
            turns, tokens = len(result.replies), result.generated_tokens
            done = f"{counted(turns, 'turn')}, {counted(tokens, 'token')}"
            err.line(f"{result.name} {result.status}: {done} (run {result.run_id})")

    def _left(self) -> str:
        names = list(self._waiting.elements())
        if not names:
            return ""
        return f"{counted(len(names), 'run')} had not begun: {', '.join(names)}"


@contextmanager
def runs_bar(
    planned: "Sequence[PlannedRun]", begun: "RunsBegun", *, resumed: bool = False
) -> Iterator[RunsBar]:
    """Show on standard error how far several runs are.

    In a terminal that is a bar over all, and a line with tokens per second for each that is active;
    elsewhere a line for each that ended. `begun` is told which runs can be resumed and, unless all
    are `resumed`, which have not begun.
    """
    extra = "{task.fields[tokens]}"
    description = "{task.description}"
    with (
        _warning_once(),
        output.progress(description, extra, bar_columns=8, shows_elapsed=False) as bar,
        stdout_on_stderr(),
    ):
        yield RunsBar(bar, planned, begun, resumed=resumed)


@contextmanager
def _warning_once() -> Iterator[None]:
    """Within this context, show a warning once that comes from several runs.

    The filter `once` of Python forgets what it showed when any filter changes.
    """
    shown: set[tuple[type[Warning], str]] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_once(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if (category, str(message)) not in shown:
                shown.add((category, str(message)))
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_once
        yield
