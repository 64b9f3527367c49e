"""The command that compares the engine with `generate`, cell by cell."""

import sys
from typing import Annotated

import typer

from benchmarks.options import JsonOption, ticking
from benchmarks.parity import tables
from benchmarks.parity.matrix import CONFIGS, DTYPES, STARTS, run_matrix
from benchmarks.report import open_report
from benchmarks.tiny_models import FAMILIES


def parity_command(
    family: Annotated[list[str] | None, typer.Option(help="Only this family of models.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="float32 or bfloat16 only.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Compare the engine with `generate`, token by token.

    A cell is a model family, a dtype, a sampler and a state of the cache.
    """
    families = _checked(family, list(FAMILIES), "family")
    dtypes = _checked(dtype, list(DTYPES), "dtype")
    count = len(families) * len(dtypes) * len(CONFIGS) * len(STARTS)
    with open_report(json_path) as report:
        cells = []
        with ticking("parity", count) as tick:
            for cell in run_matrix(families, dtypes):
                cells.append(cell)
                tick()
        report.show(tables.parity_table(cells))
        failed = [each for each in cells if not each.passes]
        report.print(f"\n{len(cells)} cells: {tables.tally(cells)}; {len(failed)} do not pass")
        report.add("parity", tables.to_json(cells))
    for each in failed:
        sys.stderr.write(f"does not pass: {tables.summary_line(each)}\n")
    raise typer.Exit(1 if failed else 0)


def _checked(chosen: list[str] | None, known: list[str], what: str) -> list[str]:
    """Return the chosen names, or all. Raise BadParameter if one is unknown."""
    for each in chosen or ():
        if each not in known:
            raise typer.BadParameter(f"unknown {what}: {each!r}; known: {', '.join(known)}")
    return chosen or known
