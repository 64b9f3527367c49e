"""How runs ended, for lists of runs."""

from collections.abc import Iterable
from contextlib import suppress

from tokentape.recorder import RecordingError
from tokentape.recorder.codec import decode_body
from tokentape.recorder.events import RunFailed, RunFinished
from tokentape.recorder.events.run import IMPORTED
from tokentape.recorder.projections import RunSummary
from tokentape.store.run_process import process_of
from tokentape.store.source import Selection, Source

_KINDS = (RunFinished.__name__, RunFailed.__name__)
_WITHOUT_DETAILS = ("running", "finished", IMPORTED)


def endings_of(
    source: Source, summaries: Iterable[RunSummary]
) -> dict[str, RunFinished | RunFailed]:
    """Return, by run id, the last events of those runs that failed or were interrupted.

    All are read in one query. A damaged event is left out.
    """
    run_ids = tuple(each.run_id for each in summaries if each.status not in _WITHOUT_DETAILS)
    if not run_ids:
        return {}
    found: dict[str, RunFinished | RunFailed] = {}
    for row in source.events_table(Selection(run_ids=run_ids, kinds=_KINDS)).to_pylist():
        found.pop(row["run_id"], None)
        with suppress(RecordingError):
            event = decode_body(row["kind"], row["version"], row["body"])
            assert isinstance(event, RunFinished | RunFailed)
            found[row["run_id"]] = event
    return found


def errors_of(source: Source, summaries: Iterable[RunSummary]) -> dict[str, str]:
    """Return, by run id, the error of each failed run: the exception's class and message."""
    endings = endings_of(source, summaries)
    return {
        run_id: event.error_text
        for run_id, event in endings.items()
        if isinstance(event, RunFailed)
    }


def status_texts(source: Source, summaries: Iterable[RunSummary]) -> dict[str, str]:
    """Return, by run id, the status of each run: with the error of one that failed, the signal of
    one that was interrupted, and whether the process of one that has not ended is there."""
    runs = list(summaries)
    texts = {run.run_id: run.status for run in runs}
    texts |= {run_id: event.status_text for run_id, event in endings_of(source, runs).items()}
    for run in runs:
        process = process_of(source, run)
        if process is not None:
            texts[run.run_id] = process.label
    return texts


def status_text_of(source: Source, run_id: str) -> str:
    """Return the status of the run with exactly that id as `status_texts` does."""
    summary = source.summary(run_id)
    return "unknown" if summary is None else status_texts(source, [summary])[run_id]
