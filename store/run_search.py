"""Selection of runs by name, model, plan, status, tags, time and texts of messages."""

import fnmatch
import re
from collections.abc import Sequence
from typing import Protocol, get_type_hints

from tokentape.recorder.clock import now_us
from tokentape.recorder.events import (
    MessageAdded,
    RunStarted,
    SystemPromptCached,
    ToolReturned,
    TurnFinished,
)
from tokentape.recorder.projections import RunSummary
from tokentape.store.errors import StoreError
from tokentape.store.event_bodies import BodySource, decoded_bodies
from tokentape.store.labels import Labels
from tokentape.store.run_conditions import RunConditions, time_us

STATUSES = ("running", "finished", "interrupted", "failed", "imported")
TEXT_FIELDS = {
    MessageAdded.__name__: "content",
    SystemPromptCached.__name__: "text",
    ToolReturned.__name__: "content",
    TurnFinished.__name__: "text",
}
"""The field of what was said, by kind of event."""

# Their lower case has one more form: the Kelvin sign, and I with a dot.
_PLAIN_PIECE = re.compile("[0-9a-hjl-z]+")


class Searched(BodySource, Protocol):
    """The part of a `Source` that a search reads."""

    def labels_by_run(self) -> dict[str, Labels]: ...


def select_runs(
    source: Searched, summaries: Sequence[RunSummary], where: RunConditions
) -> list[RunSummary]:
    """Return the summaries of the runs that fulfil all conditions, in the same order.

    Raise StoreError for a condition that is unknown or cannot be fulfilled by any run.
    """
    unknown = sorted(set(where) - set(get_type_hints(RunConditions)))
    if unknown:
        known = ", ".join(get_type_hints(RunConditions))
        raise StoreError(f"runs are not selected by {unknown[0]!r}, but by {known}")
    found = [each for each in summaries if _fits(each, where)]
    if "since" in where:
        since = time_us(where["since"], now_us())
        found = [each for each in found if each.started_at_us >= since]
    if "until" in where:
        until = time_us(where["until"], now_us(), end=True)
        found = [each for each in found if each.started_at_us < until]
    if "tag" in where:
        wanted = {where["tag"]} if isinstance(where["tag"], str) else set(where["tag"])
        labels = source.labels_by_run()
        found = [each for each in found if wanted <= set(labels.get(each.run_id, Labels()).tags)]
    if "plan" in where:
        plans = plans_of(source, [each.run_id for each in found])
        found = [each for each in found if _matches(plans.get(each.run_id, ""), where["plan"])]
    if "said" in where:
        saying = runs_saying(source, [each.run_id for each in found], where["said"])
        found = [each for each in found if each.run_id in saying]
    return found


def _fits(run: RunSummary, where: RunConditions) -> bool:
    """Return whether a run has the name, the model and the status of the conditions."""
    status = where.get("status", run.status)
    if status not in STATUSES and "status" in where:
        raise StoreError(f"a status is {', '.join(STATUSES)}, not {status!r}")
    return (
        run.status == status
        and _matches(run.name, where.get("name", ""))
        and _matches(run.model, where.get("model", ""))
    )


def _matches(text: object, wanted: str) -> bool:
    text, wanted = str(text).lower(), wanted.lower()
    if "*" in wanted or "?" in wanted:
        # Brackets are no part of such a pattern.
        return fnmatch.fnmatchcase(text, wanted.replace("[", "[[]"))
    return wanted in text


def plans_of(source: Searched, run_ids: Sequence[str]) -> dict[str, str]:
    """Return the names of the plans that runs were started with, by run id."""
    found = {}
    for run_id, _, fields in decoded_bodies(source, run_ids, (RunStarted.__name__,), ""):
        settings = fields.get("settings")
        plan = settings.get("plan") if isinstance(settings, dict) else None
        if isinstance(plan, dict) and isinstance(plan.get("name"), str):
            found[run_id] = plan["name"]
    return found


def runs_saying(source: Searched, run_ids: Sequence[str], text: str) -> set[str]:
    """Return the ids of the runs in which a text was said, by the user, the model or a tool.

    Raise StoreError for an empty text.
    """
    wanted = text.lower()
    if not wanted.strip():
        raise StoreError("the text that was said is empty")
    piece = max(_PLAIN_PIECE.findall(wanted), key=len, default="")
    found: set[str] = set()
    for run_id, kind, fields in decoded_bodies(source, run_ids, tuple(TEXT_FIELDS), piece):
        if run_id not in found and wanted in str(fields.get(TEXT_FIELDS[kind], "")).lower():
            found.add(run_id)
    return found
