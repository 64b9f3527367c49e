"""Reports as one self-contained web page, without scripts and external files."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from operator import itemgetter

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from markupsafe import escape as escape_html

from tokentape.recorder.escapes import escape, visible
from tokentape.replay.reports.charts import Chart, Scale, draw, scale_of
from tokentape.replay.reports.divergence_text import (
    difference_text,
    differences_before,
    likely_cause,
    margin_text,
)
from tokentape.replay.results.report import Divergence, Report, TurnVerdict
from tokentape.replay.results.verdict import DivergenceKind, Verdict

_TURNS_MAX = 1_000
_DIVERGENCES_MAX = 500
_TOOLS_MAX = 500
_ALTERED_MAX = 100
# Strokes of all charts together, and of one chart: they make up most of a page's size.
_STROKES_MAX = 60_000
_STROKES_A_CHART_MAX = 240
_STROKES_A_CHART_MIN = 20
_SMALL = (240, 44)
_LARGE = (480, 104)
_TEXT_MAX = 400
_SYMBOLS = {
    Verdict.EXACT: "=",
    Verdict.VERIFIED: "✓",
    Verdict.NEAR_TIE: "≈",
    Verdict.DRIFTED: "~",
    Verdict.DIVERGED: "✕",
    Verdict.INCOMPARABLE: "≠",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A turn and its charts; None where a series is missing or all zero."""

    turn: TurnVerdict
    differences: Chart | None
    margins: Chart | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A report with the turns, charts and divergences that the page shows."""

    report: Report
    anchor: str
    rows: tuple[_Row, ...]
    large: Chart | None
    difference_scale: Scale
    margin_scale: Scale
    others: tuple[Divergence, ...]
    tokens_a_stroke_max: int

    @property
    def turns_left_out(self) -> int:
        return len(self.report.turns) - len(self.rows)

    @property
    def divergences_left_out(self) -> int:
        return max(len(self.report.divergences) - 1, 0) - len(self.others)

    @property
    def near_ties(self) -> int:
        return sum(turn.near_ties for turn in self.report.turns)

    @property
    def tokens(self) -> int:
        return sum(turn.tokens for turn in self.report.turns)


def html_report(reports: Sequence[Report]) -> str:
    """Return one page for all reports: the same bytes for the same reports.

    Series of many tokens are thinned to the largest of neighbouring values, and only the first of
    very many turns and divergences are shown; the page says where.
    """
    folder = files("tokentape.replay.reports")
    style = Markup(folder.joinpath("report.css").read_text(encoding="utf-8"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "shown": shown,
        "visible": visible,
        "number": _number,
        "counted": _counted,
        "checksum": _checksum,
    }
    template = environment.from_string(
        folder.joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    shown_at_once = max(sum(min(len(report.turns), _TURNS_MAX) for report in reports), 1)
    strokes = min(
        max(_STROKES_MAX // (2 * shown_at_once), _STROKES_A_CHART_MIN), _STROKES_A_CHART_MAX
    )
    page = template.render(
        title=_title(reports),
        style=style,
        style_sha256=digest,
        sections=[_section(report, index, strokes) for index, report in enumerate(reports, 1)],
        symbols=_SYMBOLS,
        tools_max=_TOOLS_MAX,
        altered_max=_ALTERED_MAX,
        likely_cause=likely_cause,
        margin_text=margin_text,
        difference_text=difference_text,
    )
    # The macros at the beginning of the template leave empty lines.
    return page.lstrip() + "\n"


def shown(text: str, keep: str = "start", lines: bool = False) -> Markup:
    """Return recorded text as HTML with its escapes marked; with `lines`, line ends break lines.

    Of long texts only the start or the end is kept, by `keep`.
    """
    part = text[:_TEXT_MAX] if keep == "start" else text[-_TEXT_MAX:]
    runs = []
    for is_escape, group in groupby(escape(part), key=itemgetter(0)):
        run = "".join(piece for _, piece in group)
        if is_escape:
            run = run.replace("\\n", "\\n\n") if lines else run
            runs.append(Markup('<span class="esc">{}</span>').format(run))
        else:
            runs.append(escape_html(run))
    whole = Markup("").join(runs)
    if len(part) == len(text):
        return whole
    cut = Markup('<span class="cut">… ({:,} characters)</span>').format(len(text))
    return whole + cut if keep == "start" else cut + whole


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return "0" if value == 0.0 else f"{value:.1e}" if abs(value) < 0.01 else f"{value:.3g}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _checksum(text: str) -> str:
    """Return the beginning of a SHA-256, and any other text unchanged."""
    is_sum = len(text) == 64 and all(each in "0123456789abcdef" for each in text)
    return f"{text[:16]}…" if is_sum else text


def _title(reports: Sequence[Report]) -> str:
    if len(reports) == 1:
        (report,) = reports
        return f"{report.replay} of {visible(report.name or report.run_id)}: {report.verdict}"
    if not reports:
        return "No replay"
    return f"{sum(report.passes for report in reports)} of {len(reports)} replays pass"


def _section(report: Report, index: int, strokes: int) -> _Section:
    floor = report.floor
    differences = scale_of(
        (each for turn in report.turns for each in turn.logprob_differences),
        floor.logprob_floor if floor else None,
    )
    margins = scale_of(
        (each for turn in report.turns for each in turn.margins if each is not None),
        floor.margin_eps if floor else None,
    )
    marks: dict[int, list[tuple[int, bool]]] = {}
    for each in report.divergences:
        is_tie = each.kind is DivergenceKind.NEAR_TIE
        marks.setdefault(each.turn, []).append((each.step, is_tie))
    rows = tuple(
        _Row(
            turn=turn,
            differences=_differences(
                turn, differences, marks.get(turn.turn, []), size=_SMALL, strokes=strokes
            ),
            margins=_margins(turn, margins, marks.get(turn.turn, []), strokes),
        )
        for turn in _chosen(report.turns)
    )
    charts = [chart for row in rows for chart in (row.differences, row.margins) if chart]
    return _Section(
        report=report,
        anchor=f"r{index}",
        rows=rows,
        large=_large(report, differences, marks),
        difference_scale=differences,
        margin_scale=margins,
        others=report.divergences[1 : _DIVERGENCES_MAX + 1],
        tokens_a_stroke_max=max((chart.tokens_a_stroke for chart in charts), default=1),
    )


def _chosen(turns: Sequence[TurnVerdict]) -> Iterator[TurnVerdict]:
    """Yield at most `_TURNS_MAX` turns in order, preferring those that do not pass."""
    order = sorted(range(len(turns)), key=lambda index: turns[index].verdict.passes)
    yield from (turns[index] for index in sorted(order[:_TURNS_MAX]))


def _differences(
    turn: TurnVerdict,
    scale: Scale,
    marks: Sequence[tuple[int, bool]],
    *,
    size: tuple[int, int],
    strokes: int,
) -> Chart | None:
    values = turn.logprob_differences
    if not values:
        return None
    description = (
        f"{_counted(len(values), 'token')}, {_number(turn.logprob_difference_max)} nats at most"
    )
    if scale.threshold is not None:
        above = sum(not value <= scale.threshold for value in values)
        description += f", {above:,} above the floor of {scale.threshold:g}"
    return draw(
        values,
        scale,
        marks,
        size=size,
        strokes_max=strokes,
        title=f"Turn {turn.turn}: difference of the log-probability of each token",
        description=f"{description}{_marked_tokens(marks)}.",
    )


def _margins(
    turn: TurnVerdict, scale: Scale, marks: Sequence[tuple[int, bool]], strokes: int
) -> Chart | None:
    if not any(margin is None or margin != 0.0 for margin in turn.margins):
        return None
    lost = sum(margin is not None and margin > 0.0 for margin in turn.margins)
    filtered = turn.margins.count(None)
    description = (
        f"{_counted(len(turn.margins), 'token')}, {lost:,} with a margin, "
        f"{_number(turn.margin_max)} logits at most, {filtered:,} filtered"
    )
    return draw(
        turn.margins,
        scale,
        marks,
        size=_SMALL,
        strokes_max=strokes,
        title=f"Turn {turn.turn}: margin by which each recorded token lost",
        description=f"{description}{_marked_tokens(marks)}.",
    )


def _large(report: Report, scale: Scale, marks: dict[int, list[tuple[int, bool]]]) -> Chart | None:
    """Return the chart of the turn with the first divergence."""
    if report.first is None or not differences_before(report, report.first):
        return None
    turn = next(turn for turn in report.turns if turn.turn == report.first.turn)
    return _differences(turn, scale, marks[turn.turn], size=_LARGE, strokes=_STROKES_A_CHART_MAX)


def _marked_tokens(marks: Sequence[tuple[int, bool]]) -> str:
    if not marks:
        return ""
    first = ", ".join(str(token) for token, _ in marks[:5])
    more = f" and {len(marks) - 5:,} more" if len(marks) > 5 else ""
    return f"; divergences at token {first}{more}"
