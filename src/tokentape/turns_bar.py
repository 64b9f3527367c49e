"""A progress bar over turns: tokens of the turn, their speed, and the time that is left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, TaskID

from tokentape import output
from tokentape.recorder.turn_progress import TurnProgress
from tokentape.screen import err

if TYPE_CHECKING:
    import tokentape as tt
    from tokentape.generation.plans import ExperimentPlan

PROMPT = "reading the prompt"
_ROOMY_COLUMNS = 120
"""From this width on, the reused and computed tokens fit, too."""


class TurnsBar:
    """Counts tokens and turns; pass `token` as a callback, and `turn` each reply."""

    def __init__(
        self,
        bar: Progress,
        task: TaskID,
        progress: TurnProgress,
        *,
        done: int,
        most_tokens: int,
        shows_cache: bool,
    ) -> None:
        self._bar = bar
        self._task = task
        self._progress = progress
        self._settings = {"max_new_tokens": most_tokens}
        self._shows_cache = shows_cache
        self._done = done
        self._reused = self._computed = 0
        self._turn_at = self._token_at = time.perf_counter()

    def token(self, token_id: int, logits: Any) -> None:
        """Count a generated token, and update the speed and the time left."""
        now = time.perf_counter()
        if self._progress.turn is None:
            self._progress.start_turn(self._done + 1, 0, self._settings)
        self._progress.token(_us(now - self._token_at))
        self._token_at = now
        self._update()

    def turn(self, reply: "tt.Reply") -> None:
        """Count a finished turn."""
        now = time.perf_counter()
        self._progress.finish_turn(_us(now - self._turn_at))
        self._turn_at = self._token_at = now
        self._done += 1
        self._reused += reply.cache.reused_tokens
        self._computed += reply.cache.computed_tokens
        self._update(advance=1)

    def remove(self) -> None:
        """Take the line of the turns off the screen."""
        self._bar.remove_task(self._task)

    def _update(self, advance: int = 0) -> None:
        cache = f", {self._reused:,} reused, {self._computed:,} computed"
        self._bar.update(
            self._task,
            advance=advance,
            tokens=self._progress.tokens or PROMPT,
            cache=cache if self._shows_cache else "",
        )


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


@contextmanager
def plan_bar(plan: "ExperimentPlan", *, done: int = 0) -> Iterator[TurnsBar]:
    """Show a bar of the turns of a plan on standard error, the first `done` of them finished."""
    total, most_tokens = len(plan.turns()), plan.limits.max_new_tokens
    # As wide as 80 columns allow with three digits of turns, tokens and speed.
    extra = "{task.fields[tokens]}{task.fields[cache]}"
    shows_cache = err.columns >= _ROOMY_COLUMNS
    with output.progress("turn", extra, bar_columns=8, shows_elapsed=False) as bar:
        task = bar.add_task("", total=total, completed=done, tokens=PROMPT, cache="")
        yield TurnsBar(
            bar,
            task,
            TurnProgress(total),
            done=done,
            most_tokens=most_tokens,
            shows_cache=shows_cache,
        )
