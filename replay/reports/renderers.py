"""The text and the page of each class of results, for its methods `text` and `html`."""

from tokentape.replay.reports import diff_report, terminal
from tokentape.replay.results.renderers import set_renderer
from tokentape.replay.results.report import Report
from tokentape.replay.run_diff.diff_types import Diff


def set_renderers() -> None:
    """Set the renderers of reports and diffs."""
    set_renderer(Report, "text", terminal.render)
    set_renderer(Report, "html", _page)
    set_renderer(Diff, "text", diff_report.render)


def _page(report: Report) -> str:
    # Only a page needs jinja.
    from tokentape.replay.reports.html import html_report

    return html_report([report])
