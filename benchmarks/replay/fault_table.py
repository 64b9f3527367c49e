"""Tables of the faults that were injected, for a terminal and for the docs."""

from collections.abc import Sequence
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


def to_json(results: Sequence[FaultResult]) -> list[dict[str, Any]]:
    """Return the rows as plain values."""
    names = ("fault", "verdict", "cause", "numbers", "mismatches", "margin", "most", "mean")
    return [dict(zip(names, _row(each), strict=True)) for each in results]


def update_docs(path: Path, model: str, results: Sequence[FaultResult]) -> None:
    """Replace the table of a model in a page, between its two comments.

    Raise ValueError if the page lacks them.
    """
    begin, end = _BEGIN.format(model=model), _END.format(model=model)
    text = path.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ValueError(
            f"{path} lacks the comments around the faults of {model}: {begin} and {end}"
        )
    head, rest = text.split(begin, 1)
    tail = rest.split(end, 1)[1]
    lines = [
        f"| {' | '.join((*_HEADINGS, *_NUMBERS))} |",
        f"|{'---|' * len((*_HEADINGS, *_NUMBERS))}",
        *(f"| {' | '.join(_row(each))} |" for each in results),
    ]
    table = "\n".join(lines)
    path.write_text(f"{head}{begin}\n{table}\n{end}{tail}", encoding="utf-8")
