"""A progress bar over turns: how fast tokens come, and what of the prompts was spared."""

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
    """Told of each token and of each reply."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task
        self._reused = self._computed = 0
        self._first_at: float | None = None
        self._tokens = 0

    def token(self, token_id: int, logits: Any) -> None:
        now = time.perf_counter()
        if self._first_at is None:
            self._first_at, self._tokens = now, 0
            return
        self._tokens += 1
        self._bar.update(self._task, speed=f"{self._tokens / (now - self._first_at):.1f}")

    def turn(self, reply: "tt.Reply") -> None:
        # A prefill lies between two turns, which says nothing of the speed of tokens.
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
    """A bar of `total` turns on standard error, of which some may be done already."""
    with output.progress("turn", _EXTRA) as bar:
        task = bar.add_task("", total=total, completed=done, speed="–", reused="0", computed="0")
        yield TurnsBar(bar, task)
