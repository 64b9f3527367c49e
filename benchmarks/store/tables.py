"""Tables of the figures of `store`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.store.frames import FrameFigures
from benchmarks.store.measure import RoundResults, StoreFigures
from benchmarks.store.writers import BARE


def time_table(figures: StoreFigures) -> Table:
    """Return a table of milliseconds a token, a row for each writer."""
    table = Table("writer", box=None)
    for heading in ("ms/token", "min", "max", "to bare", "tokens alone"):
        table.add_column(heading, justify="right")
    table.add_column("written when")
    for name, writer in figures.writers.items():
        times = writer.ms_per_token(figures.tokens)
        alone = writer.ms_of_tokens(figures.tokens)
        table.add_row(
            name,
            *(f"{each:.3f}" for each in (median(times), min(times), max(times))),
            f"{median(ratios_to_bare(writer, figures)):.1f} x",
            f"{median(alone):.3f}" if alone else "",
            writer.results[-1].when,
        )
    for name, reason in figures.missing.items():
        table.add_row(name, *[""] * 5, f"not measured: {reason}")
    return table


def bytes_table(figures: StoreFigures) -> Table:
    """Return a table of bytes a token, a row for each writer."""
    table = Table("writer", box=None)
    for heading in ("B/token", "tokens alone", "float32"):
        table.add_column(heading, justify="right")
    table.add_column("bytes counted; for tokens alone")
    for name, writer in figures.writers.items():
        last = writer.results[-1]
        sizes = (writer.all_bytes, last.token_bytes, last.float32_bytes)
        table.add_row(name, *(_per_token(each, figures.tokens) for each in sizes), last.counted)
    return table


def _per_token(size: int | None, tokens: int) -> str:
    return "" if size is None else f"{size / tokens:,.1f}"


def ratios_to_bare(writer: RoundResults, figures: StoreFigures) -> list[float]:
    """Return the time over that of the bare loop, for each round."""
    bare = figures.writers[BARE].results
    return [mine.seconds / least.seconds for mine, least in zip(writer.results, bare, strict=False)]


def to_json(figures: StoreFigures) -> Mapping[str, Any]:
    """Return the results of every round as plain values."""
    rounds = {
        name: [asdict(each) for each in writer.results] for name, writer in figures.writers.items()
    }
    return {"tokens": figures.tokens, "rounds": rounds, "missing": dict(figures.missing)}


def frames_table(figures: Sequence[FrameFigures]) -> Table:
    """Return a table of the seconds to read rows, a row for each source."""
    table = Table("into pandas", box=None)
    for heading in ("rows", "seconds", "min", "max"):
        table.add_column(heading, justify="right")
    for each in figures:
        shown = (median(each.seconds), min(each.seconds), max(each.seconds))
        table.add_row(each.source, f"{each.rows:,}", *(f"{seconds:.2f}" for seconds in shown))
    return table
