"""Inspect's hooks at the ends of samples and evaluations, where runs end.

They are registered when the first model is made: Inspect lists the hooks of installed packages at
the start of every evaluation, of other models, too.
"""

from collections.abc import Callable
from functools import cache

import anyio.to_thread
from inspect_ai.hooks import (
    Hooks,
    RunEnd,
    SampleAttemptEnd,
    SampleEnd,
    TaskEnd,
    hooks,
)

from tokentape.inspect_provider.open_models import OPEN_MODELS


@cache
def register_hooks() -> None:
    """Let Inspect call the hooks; once in a process."""

    @hooks(name="tokentape", description="Ends the runs of samples that have ended")
    class RunEndings(Hooks):
        """Ends runs where Inspect says that nothing more is generated for them."""

        def enabled(self) -> bool:
            return bool(OPEN_MODELS)

        async def on_sample_attempt_end(self, data: SampleAttemptEnd) -> None:
            await _in_thread(lambda: _end_sample(data.sample_id))

        async def on_sample_end(self, data: SampleEnd) -> None:
            await _in_thread(lambda: _end_sample(data.sample_id))

        async def on_task_end(self, data: TaskEnd) -> None:
            await _in_thread(lambda: _end_evaluation(data.eval_id))

        async def on_run_end(self, data: RunEnd) -> None:
            await _in_thread(_end_all)


async def _in_thread(function: Callable[[], None]) -> None:
    await anyio.to_thread.run_sync(function)


def _end_sample(sample_uuid: str) -> None:
    for each in list(OPEN_MODELS):
        each.end_runs(lambda sample: sample is not None and sample.sample_uuid == sample_uuid)


def _end_evaluation(eval_id: str) -> None:
    for each in list(OPEN_MODELS):
        each.end_runs(lambda sample: sample is not None and sample.eval_id == eval_id)


def _end_all() -> None:
    for each in list(OPEN_MODELS):
        each.end_all()
