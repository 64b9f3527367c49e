"""The rows of `tokentape list`, and how a run ended."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import tokentape as tt
from tokentape import output
from tokentape import store as stores
from tokentape.screen import out
from tokentape.store.run_names import short_ids

if TYPE_CHECKING:
    from tokentape.commands.options import Store
    from tokentape.recorder.projections import RunSummary

_FULL_ID_COLUMNS = 110
"""The width of a terminal from which on a list shows whole ids."""
_ID_CHARS = 13
"""The least characters of an id in a list: the time of a UUIDv7, in milliseconds."""


def rows_of(opened: "Store", shown: "list[RunSummary]") -> output.RunRows:
    """Return what a list shows of some runs of a store."""
    run_ids = [each.run_id for each in shown]
    return output.RunRows(
        summaries=shown,
        statuses=stores.status_texts(opened, shown),
        tool_errors=stores.count_tool_errors(opened, run_ids),
        labels=opened.labels_by_run(),
        forks=stores.forks_of(opened, shown),
        parent_ids=_parent_ids(opened, shown),
        shown_ids=dict(zip(run_ids, _shown_ids(opened, run_ids), strict=True)),
    )


def _shown_ids(opened: "Store", run_ids: list[str]) -> list[str]:
    """Return the ids of runs as a list shows them.

    In a narrow terminal they are beginnings that no other run of the store has.
    """
    if out.console().width >= _FULL_ID_COLUMNS:
        return run_ids
    return _short_ids(opened, run_ids)


def _short_ids(opened: "Store", run_ids: list[str]) -> list[str]:
    """Return beginnings of ids that no other run has, also of parents that are not stored."""
    every = {each.run_id for each in opened.summaries()}
    return short_ids(run_ids, every.union(run_ids), least=_ID_CHARS)


def _parent_ids(opened: "Store", shown: "list[RunSummary]") -> dict[str, str]:
    """Return the beginnings of the ids of forks' parents, by parent."""
    parents = list({each.parent_run_id for each in shown if each.parent_run_id is not None})
    return dict(zip(parents, _short_ids(opened, parents), strict=True)) if parents else {}


def ending_json(recording: tt.Recording) -> dict[str, Any]:
    """Return the status of a run and the event that ended it, with the traceback of an error."""
    ended = recording.ended()
    if ended is None:
        return {"status": "running", "ended": None}
    return {"status": ended.status, "ended": {"kind": type(ended).__name__} | asdict(ended)}
