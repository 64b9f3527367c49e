"""Tables of the faults that were injected, for a terminal and for the docs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.replay.faults import FaultResult

_HEADINGS = ("fault", "verdict", "cause named first", "by the numbers alone")
_NUMBERS = ("tokens that differ", "largest margin", "largest difference, nats", "mean difference")
_BEGIN, _END = "<!-- faults of {model} -->", "<!-- end of faults of {model} -->"


def _row(result: FaultResult) -> tuple[str, ...]:
    turns = result.numbers.turns
    differences = [each for turn in turns for each in turn.logprob_differences]
    margin = max(turn.margin_max for turn in turns)
    filtered = any(each.margin is None for each in result.numbers.divergences)
    largest = "filtered" if filtered else f"{margin:.2g}" if margin else ""
    return (
        result.fault.name,
        result.report.verdict,
        result.cause or "none",
        result.numbers.verdict,
        f"{sum(turn.mismatches for turn in turns)} of {len(differences)}",
        largest,
        f"{max(differences):.1e}",
        f"{sum(differences) / len(differences):.1e}",
    )


def fault_table(results: Sequence[FaultResult]) -> Table:
    """Return a table with a row for each fault; unacceptable results are marked WRONG."""
    table = Table(*_HEADINGS, *_NUMBERS, "", box=None)
    for each in results:
        table.add_row(*_row(each), "" if each.is_right else "WRONG")
    return table


_RETRACE_HEADINGS = ("verdict", "cause named first", "by the numbers alone", "rows that differ")


def _retrace_row(result: FaultResult) -> tuple[str, ...]:
    turns = result.numbers.turns
    rows = sum(turn.differing_rows or 0 for turn in turns)
    cause = "no bit changed" if result.rounded_away else result.cause or "none"
    total = sum(turn.tokens for turn in turns)
    return (result.report.verdict, cause, result.numbers.verdict, f"{rows} of {total}")


def retrace_table(results: Sequence[FaultResult]) -> Table:
    """Return a table of retraces with a row for each fault; unacceptable results say WRONG."""
    table = Table("fault", *_RETRACE_HEADINGS, "", box=None)
    for each in results:
        table.add_row(each.fault.name, *_retrace_row(each), "" if each.is_right else "WRONG")
    return table


def retrace_json(results: Sequence[FaultResult]) -> list[dict[str, Any]]:
    """Return the rows of a table of retraces as plain values."""
    names = ("verdict", "cause", "numbers", "rows")
    return [
        {"fault": each.fault.name, **dict(zip(names, _retrace_row(each), strict=True))}
        for each in results
    ]


def retrace_lines(by_dtype: Mapping[str, Sequence[FaultResult]]) -> list[str]:
    """Return the lines of one table for a page, with the columns of each dtype."""
    headings = [
        f"{dtype}: verdict" if index == 0 else heading
        for dtype in by_dtype
        for index, heading in enumerate(_RETRACE_HEADINGS)
    ]
    lines = [f"| {' | '.join(('fault', *headings))} |", f"|{'---|' * (1 + len(headings))}"]
    for of_one_fault in zip(*by_dtype.values(), strict=True):
        cells = [cell for each in of_one_fault for cell in _retrace_row(each)]
        lines.append(f"| {' | '.join((of_one_fault[0].fault.name, *cells))} |")
    return lines


def to_json(results: Sequence[FaultResult]) -> list[dict[str, Any]]:
    """Return the rows as plain values."""
    names = ("fault", "verdict", "cause", "numbers", "mismatches", "margin", "most", "mean")
    return [dict(zip(names, _row(each), strict=True)) for each in results]


def verify_lines(results: Sequence[FaultResult]) -> list[str]:
    """Return the lines of a table of verifications for a page."""
    return [
        f"| {' | '.join((*_HEADINGS, *_NUMBERS))} |",
        f"|{'---|' * len((*_HEADINGS, *_NUMBERS))}",
        *(f"| {' | '.join(_row(each))} |" for each in results),
    ]


def update_docs(path: Path, name: str, lines: Sequence[str]) -> None:
    """Replace the table of this name in a page, between its two comments.

    Raise ValueError if the page lacks them.
    """
    begin, end = _BEGIN.format(model=name), _END.format(model=name)
    text = path.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ValueError(f"{path} lacks the comments around the faults of {name}: {begin}, {end}")
    head, rest = text.split(begin, 1)
    tail = rest.split(end, 1)[1]
    table = "\n".join(lines)
    path.write_text(f"{head}{begin}\n{table}\n{end}{tail}", encoding="utf-8")
