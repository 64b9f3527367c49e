"""How forks began, for lists of runs."""

from collections.abc import Iterable
from contextlib import suppress

from tokentape.recorder import RecordingError
from tokentape.recorder.events import RunForked
from tokentape.recorder.projections import RunSummary
from tokentape.store.errors import StoreError
from tokentape.store.source import Source


def forks_of(source: Source, summaries: Iterable[RunSummary]) -> dict[str, RunForked]:
    """Return, by run id, the `RunForked` of those runs that are forks. A damaged one is left out.

    They are read one by one: a table of events imports pandas, which takes longer.
    """
    found: dict[str, RunForked] = {}
    for run in summaries:
        if run.parent_run_id is None:
            continue
        # `check` reports damage; a list of runs must show the other runs.
        with suppress(RecordingError, StoreError):
            forked = source.recording(run.run_id).forked()
            if forked is not None:
                found[run.run_id] = forked
    return found
