"""The command that measures the page of a run in a browser."""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.chromium import Chromium, NoBrowserError, open_chromium
from benchmarks.options import JsonOption, demo_model
from benchmarks.report import Report, open_report
from benchmarks.view.measure import (
    FRAMES_PER_S_MIN,
    OPENED_S_MAX,
    measure_opening,
    measure_scroll,
)
from benchmarks.view.pages import MadePage, make_page

RUNS = ((20, 40), (20, 500), (200, 500))
"""Turns, and tokens a turn: about the demo, a long conversation, and 100,000 tokens."""
# In 10 s at 60 frames a second, and a hurried one in 2 s.
SCROLL_FRAMES = (600, 120)


def view_command(
    rounds: Annotated[int, typer.Option(min=1, help="Times that each page is opened.")] = 5,
    json_path: JsonOption = None,
) -> None:
    """Measure how fast the page of a run opens and scrolls in a headless Chromium."""
    try:
        with open_report(json_path) as report, open_chromium() as chromium:
            report.print(
                f"Chromium {chromium.version}, a page of 1280 × 900; aims: open in "
                f"{OPENED_S_MAX:g} s, {FRAMES_PER_S_MIN:g} frames a second"
            )
            _measure_all(report, chromium, rounds)
    except NoBrowserError as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(2) from None


def _measure_all(report: Report, chromium: Chromium, rounds: int) -> None:
    lm = demo_model("cpu")
    opening = _table("run", "tokens", "made s", "page kB", "opens s", "click ms", "heap MB")
    scrolling = _table("run", "height px", "frames", "seconds", "frames/s", "worst ms", "late")
    with tempfile.TemporaryDirectory() as folder:
        for turns, turn_tokens in RUNS:
            made = make_page(lm, Path(folder), turns=turns, turn_tokens=turn_tokens)
            _measure(report, chromium, made, rounds, opening, scrolling)
    report.show(opening)
    report.print("opens: from the start of the navigation until tokens are seen and can be clicked")
    report.show(scrolling)
    report.print("late: frames of more than 1/50 s")


def _measure(
    report: Report,
    chromium: Chromium,
    made: MadePage,
    rounds: int,
    opening: Table,
    scrolling: Table,
) -> None:
    name = f"{made.turns} turns of {made.tokens // made.turns}"
    opened = measure_opening(chromium, made.path, rounds=rounds)
    heap = "–" if opened.heap_bytes is None else f"{opened.heap_bytes / 1e6:.0f}"
    opening.add_row(
        name,
        f"{made.tokens:,}",
        f"{made.made_s:.2f}",
        f"{made.page_bytes / 1000:,.0f}",
        f"{opened.tokens_ms / 1000:.2f}",
        f"{opened.select_ms:.0f}",
        heap,
    )
    scrolls = measure_scroll(chromium, made.path, frames=SCROLL_FRAMES)
    for each in scrolls:
        scrolling.add_row(
            name,
            f"{each.height_px:,.0f}",
            f"{each.frames}",
            f"{each.seconds:.1f}",
            f"{each.frames_per_s:.1f}",
            f"{each.worst_ms:.0f}",
            f"{each.late}",
        )
    made_figures = {key: value for key, value in asdict(made).items() if key != "path"}
    report.add(
        name,
        made_figures
        | asdict(opened)
        | {
            "scrolls": [asdict(each) | {"frames_per_s": each.frames_per_s} for each in scrolls],
        },
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=True)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
