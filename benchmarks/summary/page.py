"""docs/benchmarks.md, written from a file of results and the text in `page.md`."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.summary.budgets import budget_of
from benchmarks.summary.comparison import Comparison
from benchmarks.summary.parts import PARTS
from benchmarks.summary.results_file import FINISHED, PartOutcome

_TEXT = Path(__file__).parent / "page.md"
_PLACE = re.compile(r"^\{\{([\w-]+)\}\}$", re.MULTILINE)
_RATIOS = "ratios"
_MET = {True: "yes", False: "**no**", None: "not measured"}
_TIMES = ("ms", "s")
_HEADINGS = (
    "| what | tokentape | peer | its figure | ratio | least to most | budget | met | day |",
    "|---|---|---|---|---|---|---|---|---|",
)


def page(outcomes: Mapping[str, PartOutcome]) -> str:
    """Return the text of the page, with the tables of the outcomes in their places.

    Raise ValueError if the text has a place for a part that does not exist.
    """
    known = {each.name for each in PARTS}

    def filled(place: re.Match[str]) -> str:
        name = place[1]
        if name == _RATIOS:
            return "\n".join(_ratios(outcomes))
        if name not in known:
            raise ValueError(f"page.md has a place for {name!r}, which is no part")
        return "\n".join(_part(outcomes.get(name)))

    return _PLACE.sub(filled, _TEXT.read_text(encoding="utf-8"))


def _ratios(outcomes: Mapping[str, PartOutcome]) -> Iterator[str]:
    """Yield the table with all comparisons, in the order of the parts."""
    yield from _HEADINGS
    for part in PARTS:
        outcome = outcomes.get(part.name)
        if outcome is not None:
            yield from (_row(each, outcome) for each in outcome.comparisons)


def _row(each: Comparison, outcome: PartOutcome) -> str:
    spread = ""
    if each.ratio_min is not None and each.ratio_max is not None and each.rounds > 1:
        spread = f"{each.ratio_min:.3g} to {each.ratio_max:.3g}"
    cells = (
        each.what,
        _value(each.ours, each.unit),
        each.peer + (f" ({_cell(each.note)})" if each.note else ""),
        _value(each.theirs, each.unit) if each.peer else "",
        "" if each.ratio is None else f"{each.ratio:.3g} ×",
        spread,
        *_budget(each, busy=_was_busy(outcome)),
        outcome.day,
    )
    return f"| {' | '.join(cells)} |"


def _budget(each: Comparison, *, busy: bool) -> tuple[str, str]:
    """Return the budget of a figure, and whether it is met, also on a busy machine."""
    budget = budget_of(each)
    if budget is None:
        return "", ""
    met = budget.is_met(each)
    excused = busy and met is False and budget.of == "value" and each.unit in _TIMES
    return budget.text(each.unit), _MET[met] + (" (busy machine)" if excused else "")


def _was_busy(outcome: PartOutcome) -> bool:
    """Return whether more processes than cores wanted to run, before or after."""
    return outcome.load is not None and max(outcome.load) > outcome.machine["cores"]


def _part(outcome: PartOutcome | None) -> Iterator[str]:
    """Yield how a part was run, and what it printed."""
    if outcome is None:
        yield "*Not measured yet.*"
        return
    took = "" if outcome.seconds is None else f" in {outcome.seconds / 60:.1f} minutes"
    busy = ""
    if outcome.load is not None:
        busy = f", with a load of {outcome.load[0]:g} before and {outcome.load[1]:g} after"
    yield f"`{outcome.command}` on {outcome.day}{took}{busy}."
    if outcome.status != FINISHED:
        yield f"**{outcome.status}**: {_cell(outcome.reason).rstrip('.')}."
    elif outcome.reason:
        yield f"{outcome.reason[0].upper()}{_cell(outcome.reason[1:])}."
    if outcome.is_measured and outcome.output:
        yield from ("", "```text", *outcome.output, "```")


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    digits = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{digits} {unit}"


def _cell(text: str) -> str:
    """Return text that cannot end a cell or a line."""
    return " ".join(text.replace("|", "/").replace("`", "'").split())
