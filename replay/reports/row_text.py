"""Plain-text rendering of the rows that a retrace did not compute to the bit."""

from collections.abc import Iterator

from tokentape.replay.results.report import Report
from tokentape.replay.results.row_difference import NumberDifference, RowDifference

_NAME_COLUMNS = 18


def rows_text(report: Report) -> Iterator[str]:
    """Yield how many rows differ, and the first of them in full; nothing for other replays."""
    counts = [turn.differing_rows for turn in report.turns if turn.differing_rows is not None]
    if not counts:
        return
    compared = sum(turn.tokens for turn in report.turns)
    yield f"  rows: {compared:,} compared bit for bit, {sum(counts):,} differ"
    if report.rows:
        yield from row_in_full(report.rows[0])


def row_in_full(row: RowDifference) -> Iterator[str]:
    """Yield the place of a row, then every number that differs in it."""
    yield f"  first row that differs: turn {row.turn}, token {row.step}, position {row.position}"
    if row.picked_id != row.token_id:
        yield f"    {'pick':<{_NAME_COLUMNS}} recorded {row.token_id}, now {row.picked_id}"
    if row.recorded_top_ids != row.replayed_top_ids:
        recorded, now = (
            " ".join(map(str, ids)) for ids in (row.recorded_top_ids, row.replayed_top_ids)
        )
        yield f"    {'top_ids':<{_NAME_COLUMNS}} recorded {recorded}, now {now}"
    for each in row.numbers:
        yield f"    {each.name:<{_NAME_COLUMNS}} {number_text(each)}"


def number_text(each: NumberDifference) -> str:
    """Return both sides of a number, and their distance."""
    if each.replayed is None or each.ulps is None:
        return f"recorded {each.recorded!r}, now filtered"
    unit = "unit" if each.ulps == 1 else "units"
    return (
        f"recorded {each.recorded!r}, now {each.replayed!r}: {each.ulps:,} {unit} in the last "
        f"place, {each.difference:.2g}"
    )
