"""The table of faults, for a terminal and for the docs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.faults import Found

_HEADINGS = ("fault", "verdict", "cause named first", "by the numbers alone")
_NUMBERS = ("tokens that differ", "largest margin", "most nats off", "on average")
_BEGIN, _END = "<!-- faults of {model} -->", "<!-- end of faults of {model} -->"


def rows(found: Sequence[Found]) -> list[tuple[str, ...]]:
    return [_row(each) for each in found]


def _row(found: Found) -> tuple[str, ...]:
    turns = found.numbers.turns
    differences = [each for turn in turns for each in turn.logprob_differences]
    margin = max(turn.margin_max for turn in turns)
    filtered = any(each.margin is None for each in found.numbers.divergences)
    largest = "filtered" if filtered else f"{margin:.2g}" if margin else ""
    return (
        found.fault.name,
        found.report.verdict,
        found.cause or "none",
        found.numbers.verdict,
        f"{sum(turn.mismatches for turn in turns)} of {len(differences)}",
        largest,
        f"{max(differences):.1e}",
        f"{sum(differences) / len(differences):.1e}",
    )


def fault_table(found: Sequence[Found]) -> Table:
    table = Table(*_HEADINGS, *_NUMBERS, "", box=None)
    for each, row in zip(found, rows(found), strict=True):
        table.add_row(*row, "" if each.is_right else "WRONG")
    return table


def described(found: Sequence[Found]) -> list[dict[str, Any]]:
    names = ("fault", "verdict", "cause", "numbers", "mismatches", "margin", "most", "mean")
    return [dict(zip(names, row, strict=True)) for row in rows(found)]


def update_docs(path: Path, model: str, found: Sequence[Found]) -> None:
    """Put the table of a model between its marks. Raises ValueError where these are not there."""
    begin, end = _BEGIN.format(model=model), _END.format(model=model)
    text = path.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ValueError(f"{path} has no place for the faults of {model}: {begin}")
    head, rest = text.split(begin, 1)
    tail = rest.split(end, 1)[1]
    lines = [
        f"| {' | '.join((*_HEADINGS, *_NUMBERS))} |",
        f"|{'---|' * len((*_HEADINGS, *_NUMBERS))}",
        *(f"| {' | '.join(row)} |" for row in rows(found)),
    ]
    table = "\n".join(lines)
    path.write_text(f"{head}{begin}\n{table}\n{end}{tail}", encoding="utf-8")
