"""The runs of a store as a small HTML table."""

from collections.abc import Iterable

from tokentape.recorder.projections import RunSummary
from tokentape.recorder.short_forms import counted, html_table
from tokentape.store.run_names import local_time


def runs_html(where: str, summaries: Iterable[RunSummary]) -> str:
    """Return the newest runs of a store, the newest first."""
    runs = list(summaries)
    head = ("run", "name", "model", "status", "turns", "tokens", "started")
    rows = [
        (
            each.run_id,
            each.name,
            each.model,
            each.status,
            each.turns,
            each.generated_tokens,
            local_time(each.started_at_us),
        )
        for each in reversed(runs)
    ]
    return html_table(f"{where}: {counted(len(runs), 'run')}", head, rows, end="older runs")
