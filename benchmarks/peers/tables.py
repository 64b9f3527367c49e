"""Tables and figures of `peers` and `batch`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.peers.measure import ALONE
from benchmarks.peers.rounds import EngineRounds
from benchmarks.peers.token_times import TokenTimes


def engines_table(measured: EngineRounds, title: str) -> Table:
    """Return a table with a row for each engine; `title` heads the names."""
    table = Table(title, box=None)
    for heading in ("step ms", "min", "max", "decoded/s", "whole/s", "step, to one alone"):
        table.add_column(heading, justify="right")
    table.add_column("not measured")
    for name, times in measured.times.items():
        table.add_row(name, *_cells(name, times, measured.times), "")
    for name, reason in measured.missing.items():
        table.add_row(name, *[""] * 6, reason)
    return table


def _cells(
    name: str, times: Sequence[TokenTimes], others: Mapping[str, Sequence[TokenTimes]]
) -> Iterator[str]:
    steps = _values(times, lambda each: each.step_ms)
    yield from (f"{of(steps):,.1f}" if steps else "-" for of in (median, min, max))
    rates = _values(times, lambda each: each.decode_per_s)
    yield f"{median(rates):,.1f}" if rates else "-"
    yield f"{median(each.whole_per_s for each in times):,.1f}"
    alone = _values(others.get(ALONE, ()), lambda each: each.step_ms)
    if name == ALONE or len(alone) != len(steps) or not steps:
        yield ""
    else:
        yield f"{median(mine / one for mine, one in zip(steps, alone, strict=True)):.2f} x"


def to_json(measured: EngineRounds) -> dict[str, Any]:
    """Return the step and the rates of each engine and round as plain values."""
    return {
        "missing": measured.missing,
        "engines": {
            name: {
                "step_ms": [each.step_ms for each in times],
                "decode_per_s": [each.decode_per_s for each in times],
                "whole_per_s": [each.whole_per_s for each in times],
            }
            for name, times in measured.times.items()
        },
    }


def _values(
    times: Sequence[TokenTimes], value: Callable[[TokenTimes], float | None]
) -> list[float]:
    found = (value(each) for each in times)
    return [each for each in found if each is not None]
