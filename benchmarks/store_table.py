"""How the figures of stores are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.keepers import BARE
from benchmarks.row_frames import FrameFigures
from benchmarks.storing import Contender, StoreFigures


def time_table(figures: StoreFigures) -> Table:
    table = Table("kept by", box=None)
    for heading in ("ms/token", "least", "most", "to bare", "tokens alone"):
        table.add_column(heading, justify="right")
    table.add_column("when")
    for name, contender in figures.contenders.items():
        times = contender.ms_per_token(figures.tokens)
        alone = contender.ms_alone(figures.tokens)
        table.add_row(
            name,
            *(f"{each:.3f}" for each in (median(times), min(times), max(times))),
            f"{median(ratios_to_bare(contender, figures)):.1f} x",
            f"{median(alone):.3f}" if alone else "",
            contender.kept[-1].when,
        )
    for name, reason in figures.missing.items():
        table.add_row(name, *[""] * 5, f"not measured: {reason}")
    return table


def bytes_table(figures: StoreFigures) -> Table:
    table = Table("kept by", box=None)
    for heading in ("B/token", "tokens alone", "float32"):
        table.add_column(heading, justify="right")
    table.add_column("what is counted; of tokens alone")
    for name, contender in figures.contenders.items():
        last = contender.kept[-1]
        sizes = (contender.all_bytes, last.token_bytes, last.precise_bytes)
        table.add_row(name, *(_per_token(each, figures.tokens) for each in sizes), last.counted)
    return table


def _per_token(size: int | None, tokens: int) -> str:
    return "" if size is None else f"{size / tokens:,.1f}"


def ratios_to_bare(contender: Contender, figures: StoreFigures) -> list[float]:
    """How many times the bare loop took, round by round."""
    bare = figures.contenders[BARE].kept
    return [own.seconds / least.seconds for own, least in zip(contender.kept, bare, strict=False)]


def described(figures: StoreFigures) -> Mapping[str, Any]:
    """For JSON: every round."""
    rounds = {
        name: [asdict(each) for each in contender.kept]
        for name, contender in figures.contenders.items()
    }
    return {"tokens": figures.tokens, "rounds": rounds, "missing": dict(figures.missing)}


def frames_table(figures: Sequence[FrameFigures]) -> Table:
    table = Table("into pandas", box=None)
    for heading in ("rows", "seconds", "least", "most"):
        table.add_column(heading, justify="right")
    for each in figures:
        shown = (median(each.seconds), min(each.seconds), max(each.seconds))
        table.add_row(each.way, f"{each.rows:,}", *(f"{seconds:.2f}" for seconds in shown))
    return table
