"""The command that measures the verification of many small tapes."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import tokentape as tt
from benchmarks.options import JsonOption, demo_model
from benchmarks.replay import bulk
from benchmarks.report import open_report
from tokentape import output

_TARGET = 4.0


def bulk_command(
    tapes: Annotated[int, typer.Option(min=4, help="Small tapes to verify.")] = 1000,
    distinct: Annotated[
        int, typer.Option(min=1, help="Different recordings; the other tapes are copies.")
    ] = 50,
    one_by_one: Annotated[
        int, typer.Option(min=4, help="Tapes that are verified one by one, too.")
    ] = 200,
    jobs: Annotated[int, typer.Option(min=2, help="Processes of the last way.")] = 2,
    recorded: Annotated[
        Path | None,
        typer.Option("--tapes-in", help="Verify the tapes of this folder; else record some."),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Verify many small tapes one by one, in bulk, and in bulk by several processes."""
    lm = demo_model("cpu")
    with open_report(json_path) as report, tempfile.TemporaryDirectory() as folder:
        found = _tapes(lm, recorded or Path(folder), tapes, distinct)
        one_by_one = min(one_by_one, len(found))
        with output.progress("tapes") as bar:
            task = bar.add_task("", total=2 * len(found) + one_by_one)
            figures = bulk.measure_bulk(
                lm,
                found,
                distinct=min(distinct, len(found)),
                one_by_one=one_by_one,
                jobs=jobs,
                tick=lambda count: bar.advance(task, count),
            )
        report.print(
            f"\n{figures.tapes:,} tapes of one turn, {figures.tokens_mean:.0f} tokens on average: "
            f"{figures.distinct} recordings, copied under run ids of their own"
        )
        table = Table("", "ms a tape", "times faster", "ms of a core a tape", box=None)
        alone = figures.one_by_one_s
        table.add_row("one by one", _spread(alone), "1.0", _ms(figures.one_by_one_cpu_s))
        table.add_row(
            "in bulk, one process",
            _ms(figures.in_bulk_s),
            f"{figures.bulk_ratio:.1f}",
            _ms(figures.in_bulk_cpu_s),
        )
        table.add_row(
            f"in bulk, {figures.jobs} processes, their start included",
            _ms(figures.with_jobs_s),
            f"{figures.jobs_ratio:.1f}",
            _ms(figures.with_jobs_cpu_s),
        )
        report.show(table)
        met = figures.jobs_ratio >= _TARGET
        report.print(f"\n{_TARGET:g} times faster with all processes: {'yes' if met else 'NO'}")
        report.print(f"verdicts: {', '.join(figures.verdicts)}")
        report.add("bulk", figures.to_json())
    raise typer.Exit(0 if figures.verdicts == ("verified",) else 1)


def _tapes(lm: tt.LoadedModel, folder: Path, count: int, distinct: int) -> list[Path]:
    """Return the tapes of a folder; record them there if it has none."""
    found = sorted(folder.glob("*.tape"))
    if found:
        return found[:count]
    folder.mkdir(parents=True, exist_ok=True)
    with output.progress("recording") as bar:
        task = bar.add_task("", total=count)
        return bulk.record_tapes(
            lm,
            folder,
            distinct=min(distinct, count),
            count=count,
            tick=lambda: bar.advance(task),
        )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}"


def _spread(seconds: tuple[float, ...]) -> str:
    low, high = 1e3 * min(seconds), 1e3 * max(seconds)
    middle = 1e3 * sorted(seconds)[len(seconds) // 2]
    return f"{middle:.0f} ({low:.0f}–{high:.0f})"
