"""The columns of `runs_df` that no summary has: they are read from the events of the runs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from tokentape.recorder.projections import RunSummary
from tokentape.store.frames.columns import RUNS_DF
from tokentape.store.frames.rows import BODY_COLUMNS, EventRow, Row, folding
from tokentape.store.labels import Labels
from tokentape.store.source import Selection, Source

_KINDS = ("RunStarted", "RunResumed", "RunFinished", "RunFailed")
_OF_START = ("weights_sha256", "attention_kernel", "dtype", "device")
_NAMES = (
    *_OF_START,
    "protocol",
    "torch",
    "transformers",
    "tokentape",
    "error",
    "finished_at",
    "duration_us",
)


SUMMARY_COLUMNS = tuple(
    name for name in RUNS_DF.names if name not in _NAMES and name != "tool_errors"
)
"""The columns that need no event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetails:
    """The columns of runs that their summaries lack, by run id."""

    labels: Mapping[str, Labels]
    events: Mapping[str, Row]
    """What the first and the last event of a run say."""
    tool_errors: Mapping[str, int]
    """Runs without an error are left out."""

    def row_of(self, summary: RunSummary) -> Row:
        """Return the row of a run."""
        labels = self.labels.get(summary.run_id, Labels())
        return {
            **self.events.get(summary.run_id, {}),
            **asdict(summary),
            "started_at": summary.started_at_us,
            "updated_at": summary.updated_at_us,
            "tags": labels.joined_tags,
            "note": labels.note,
            "tool_errors": self.tool_errors.get(summary.run_id, 0),
        }


def of_runs(store: Source, run_ids: tuple[str, ...] | None, columns: Iterable[str]) -> RunDetails:
    """Return what the columns need. Raise RecordingError for a damaged event."""
    wanted = set(columns)
    selection = Selection(run_ids=run_ids, columns=BODY_COLUMNS)
    rows: list[Row] = []
    if not wanted.isdisjoint(_NAMES):
        rows = _detail_rows(store.events_table(replace(selection, kinds=_KINDS)))
    errors: Counter[str] = Counter()
    if "tool_errors" in wanted:
        errors = _tool_errors(store.events_table(replace(selection, kinds=("ToolReturned",))))
    return RunDetails(
        labels=store.labels_by_run() if wanted & {"tags", "note"} else {},
        events={row["run_id"]: row for row in rows},
        tool_errors=errors,
    )


def _tool_errors(results: pa.Table) -> "Counter[str]":
    # Quotes within a text of a body are escaped: this is the field itself, so few bodies are left.
    failed = pc.invert(pc.match_substring(results["body"], '"error":null'))
    return Counter(row["run_id"] for row in _error_rows(results.filter(failed)))


@folding
def _error_rows(events: Iterator[EventRow]) -> list[Row]:
    return [{"run_id": each.run_id} for each in events if each.body["error"] is not None]


@folding
def _detail_rows(events: Iterator[EventRow]) -> list[Row]:
    rows: list[Row] = []
    for event in events:
        body = event.body
        if event.kind == "RunStarted":
            plan, versions = body["settings"].get("plan") or {}, body["environment"]
            rows.append(
                {name: body[name] for name in _OF_START}
                | {
                    "run_id": event.run_id,
                    "started_at_us": event.at_us,
                    "protocol": plan.get("name"),
                    "torch": versions.get("torch"),
                    "transformers": versions.get("transformers"),
                    "tokentape": body.get("tokentape_version") or None,
                }
            )
        elif rows and rows[-1]["run_id"] == event.run_id:
            rows[-1] |= _end_of(event, rows[-1]["started_at_us"])
    return rows


def _end_of(event: EventRow, started_at_us: int) -> Row:
    """Return how a run ended; all None for one that was resumed."""
    if event.kind == "RunResumed":
        return {"error": None, "finished_at": None, "duration_us": None}
    failed = event.kind == "RunFailed"
    return {
        "error": f"{event.body['error']}: {event.body['message']}" if failed else None,
        "finished_at": event.at_us,
        "duration_us": event.at_us - started_at_us,
    }
