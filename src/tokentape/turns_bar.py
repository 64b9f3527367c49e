"""A progress bar over turns, with tokens per second and prompt tokens reused and computed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, TaskID

from tokentape import output

if TYPE_CHECKING:
    import tokentape as tt

_EXTRA = (
    "{task.fields[speed]} tokens/s, {task.fields[reused]} reused, {task.fields[computed]} computed"
)


class TurnsBar:
    """Counts tokens and turns; pass `token` as a callback, and `turn` each reply."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task
        self._reused = self._computed = 0
        self._first_at: float | None = None
        self._tokens = 0

    def token(self, token_id: int, logits: Any) -> None:
        """Count a generated token, and update the speed."""
        now = time.perf_counter()
        if self._first_at is None:
            self._first_at, self._tokens = now, 0
            return
        self._tokens += 1
        self._bar.update(self._task, speed=f"{self._tokens / (now - self._first_at):.1f}")

    def turn(self, reply: "tt.Reply") -> None:
        """Count a finished turn."""
        # The prefill of the next turn must not count as the time of a token.
        self._first_at = None
        self._reused += reply.cache.reused_tokens
        self._computed += reply.cache.computed_tokens
        self._bar.update(
            self._task,
            advance=1,
            reused=f"{self._reused:,}",
            computed=f"{self._computed:,}",
        )


@contextmanager
def turns_bar(total: int, *, done: int = 0) -> Iterator[TurnsBar]:
    """Show a bar of `total` turns on standard error, the first `done` of them finished."""
    with output.progress("turn", _EXTRA) as bar:
        task = bar.add_task("", total=total, completed=done, speed="-", reused="0", computed="0")
        yield TurnsBar(bar, task)
